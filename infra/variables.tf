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

variable "operators" {
  description = "Who may call rotate by hand, as IAM members (group:…)."
  type        = list(string)
  default     = []
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
