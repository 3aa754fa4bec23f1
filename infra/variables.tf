variable "project" {
  description = "Id of the Google Cloud project: one for each environment."
  type        = string
}

variable "project_number" {
  description = "Number of the project. Cloud Run makes the functions' own URLs of it, which scheduled work is addressed to."
  type        = string
  validation {
    condition     = can(regex("^[0-9]+$", var.project_number))
    error_message = "The project's number is digits."
  }
}

variable "environment" {
  type = string
  validation {
    condition     = contains(["dev", "staging", "prod"], var.environment)
    error_message = "One of dev, staging, prod."
  }
}

variable "region" {
  type    = string
  default = "europe-west1"
}

variable "domain" {
  description = "The one hostname in front: receipts are issued in its name, and clients call it."
  type        = string
}

variable "image_tag" {
  description = "Tag of the functions' images that a service is first made with. Afterwards deployments change the image, and Terraform leaves it."
  type        = string
  default     = "bootstrap"
}

variable "mail_alerts_to" {
  description = "Where alerts are mailed."
  type        = string
}

variable "billing_account" {
  description = "The billing account that the budget watches; empty for no budget."
  type        = string
  default     = ""
}

variable "monthly_budget_usd" {
  type    = number
  default = 200
}

variable "warm" {
  description = "Whether the functions on the seat path keep their minimum of instances. Without, the first request of a quiet hour waits for a start."
  type        = bool
}

variable "scale" {
  description = "Factor on the table's maximum instances; 1 is what the connections of the smallest database allow."
  type        = number
  default     = 1
}

variable "highly_available" {
  description = "A standby of PostgreSQL and a replica of Redis, each in another zone."
  type        = bool
}

variable "keys_location" {
  description = "Where Cloud KMS keeps the keys: a multi-region such as europe, and they outlive a region; null for the region. It can never be changed."
  type        = string
  default     = null
}

variable "journal_location" {
  description = "Where Firestore keeps the journal: a multi-region such as eur3; null for the region. It can never be changed."
  type        = string
  default     = null
}

variable "standby_region" {
  description = "Another region with a replica of PostgreSQL, which takes over when the first is lost; null for none."
  type        = string
  default     = null
}

variable "postgres_instance" {
  description = "Name of the instance of PostgreSQL: another's after a restore, or when the standby took over."
  type        = string
  default     = "usher"
}

variable "postgres_tier" {
  type    = string
  default = "db-custom-1-3840"
}

variable "postgres_max_connections" {
  description = "Set on the server, and checked against what all instances may open at once."
  type        = number
  default     = 200
}

variable "redis_gb" {
  description = "Memory of the pools. A session takes some 300 bytes; at 75 % an alert goes off, as noeviction then refuses writes when it is full."
  type        = number
  default     = 1
}

variable "stripe_catalog" {
  description = "What is sold at Stripe: plans to prices, as docs/operations.md says. Ids of prices are of this environment's Stripe account."
  type        = any
}

variable "sites" {
  description = "The sites to which a person may be sent back from Stripe, as in https://app.example.com; the first is the usual one."
  type        = list(string)
  validation {
    condition     = length(var.sites) > 0 && alltrue([for site in var.sites : can(regex("^https://[^/]+$", site))])
    error_message = "At least one site, each with https:// and without a path."
  }
}

variable "mail" {
  description = "The server that mails are given to on port 587 with STARTTLS, who logs in there, and whom mails are from."
  type        = object({ host = string, username = string, from = string })
}

variable "repository" {
  description = "The repository that Cloud Build is connected to, as in projects/P/locations/R/connections/C/repositories/usher; empty for releases by hand alone."
  type        = string
  default     = ""
}

variable "more" {
  description = "Optional variables of docs/operations.md, by function, as in { subscription = { STRIPE_RETENTION_COUPON = \"stay\" } }."
  type        = map(map(string))
  default     = {}
  validation {
    condition     = alltrue([for function in keys(var.more) : contains(keys(local.functions), function)])
    error_message = "There is no such function."
  }
}
