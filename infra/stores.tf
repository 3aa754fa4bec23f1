resource "google_sql_database_instance" "usher" {
  name                = var.postgres_instance
  database_version    = "POSTGRES_15"
  region              = var.region
  deletion_protection = true
  settings {
    tier                        = var.postgres_tier
    edition                     = "ENTERPRISE"
    availability_type           = var.highly_available ? "REGIONAL" : "ZONAL"
    deletion_protection_enabled = true
    disk_type                   = "PD_SSD"
    disk_autoresize             = true
    ip_configuration {
      ipv4_enabled    = false
      private_network = google_compute_network.usher.id
      ssl_mode        = "ENCRYPTED_ONLY"
      # An authority of the instance's own: whoever shows a certificate of it is the instance.
      server_ca_mode = "GOOGLE_MANAGED_INTERNAL_CA"
    }
    backup_configuration {
      enabled                        = true
      start_time                     = "02:00"
      point_in_time_recovery_enabled = true
      transaction_log_retention_days = 7
      backup_retention_settings {
        retained_backups = 30
      }
    }
    database_flags {
      name  = "max_connections"
      value = tostring(var.postgres_max_connections)
    }
    # Functions log in as their accounts.
    database_flags {
      name  = "cloudsql.iam_authentication"
      value = "on"
    }
    insights_config {
      query_insights_enabled = true
    }
  }
  lifecycle {
    prevent_destroy = true
    # Ten are kept for the migrate job, for people, and for the server itself.
    precondition {
      condition     = local.connections <= var.postgres_max_connections - 10
      error_message = "All instances together may open ${local.connections} connections, more than PostgreSQL's ${var.postgres_max_connections} less 10 kept back: lower the maxima, or raise the server."
    }
  }
  depends_on = [google_service_networking_connection.services]
}

# For the loss of the region: docs/operations/region-loss.md.
resource "google_sql_database_instance" "standby" {
  count                = var.standby_region == null ? 0 : 1
  name                 = "usher-standby"
  master_instance_name = google_sql_database_instance.usher.name
  database_version     = google_sql_database_instance.usher.database_version
  region               = var.standby_region
  deletion_protection  = true
  settings {
    tier              = var.postgres_tier
    edition           = "ENTERPRISE"
    availability_type = "ZONAL"
    disk_type         = "PD_SSD"
    disk_autoresize   = true
    ip_configuration {
      ipv4_enabled    = false
      private_network = google_compute_network.usher.id
      ssl_mode        = "ENCRYPTED_ONLY"
      server_ca_mode  = "GOOGLE_MANAGED_INTERNAL_CA"
    }
    # A replica may not have fewer than its primary.
    database_flags {
      name  = "max_connections"
      value = tostring(var.postgres_max_connections)
    }
    # Of what a primary is set to a replica knows nothing: whoever takes over must let functions in.
    database_flags {
      name  = "cloudsql.iam_authentication"
      value = "on"
    }
  }
}

resource "google_sql_database" "usher" {
  name     = "usher"
  instance = google_sql_database_instance.usher.name
}

# The account of each function is a user of the database. Its password is a token of IAM; there is no other.
resource "google_sql_user" "function" {
  for_each = local.functions
  name     = local.logins[each.key]
  instance = google_sql_database_instance.usher.name
  type     = "CLOUD_IAM_SERVICE_ACCOUNT"
}

# To log in, and nothing else of Cloud SQL: in the project, whose instances are this one and its replica.
resource "google_project_iam_member" "database" {
  for_each = local.functions
  project  = var.project
  role     = "roles/cloudsql.instanceUser"
  member   = google_service_account.function[each.key].member
}

locals {
  # In the database an account's name has no .gserviceaccount.com.
  logins = { for name, account in google_service_account.function : name => "${account.account_id}@${var.project}.iam" }
  # Where each role of the table is acted as. The server is held to the certificate of its own authority, as the token is sent to it.
  database_urls = { for name, f in local.functions : name => { for role in f.postgres : role => join("", [
    "postgres://${urlencode(local.logins[name])}@${google_sql_database_instance.usher.private_ip_address}:5432/${google_sql_database.usher.name}",
    "?sslmode=verify-ca&sslrootcert=/var/run/postgres-ca/ca.pem&role=${role}",
  ]) } }
}

# The pools of seats, and apart from them the budgets: a flood of requests must not cost anybody a seat.
resource "google_redis_instance" "pools" {
  name                    = "pools"
  tier                    = var.highly_available ? "STANDARD_HA" : "BASIC"
  memory_size_gb          = var.redis_gb
  region                  = var.region
  redis_version           = "REDIS_7_2"
  authorized_network      = google_compute_network.usher.id
  connect_mode            = "PRIVATE_SERVICE_ACCESS"
  auth_enabled            = true
  transit_encryption_mode = "SERVER_AUTHENTICATION"
  # A pool that lost some of its keys would give seats away twice.
  redis_configs = { "maxmemory-policy" = "noeviction" }
  lifecycle {
    prevent_destroy = true
  }
  depends_on = [google_service_networking_connection.services]
}

resource "google_redis_instance" "budgets" {
  name                    = "budgets"
  tier                    = "BASIC" # everything goes on without it
  memory_size_gb          = 1       # the least there is; a budget is some 100 bytes for seconds
  region                  = var.region
  redis_version           = "REDIS_7_2"
  authorized_network      = google_compute_network.usher.id
  connect_mode            = "PRIVATE_SERVICE_ACCESS"
  auth_enabled            = true
  transit_encryption_mode = "SERVER_AUTHENTICATION"
  redis_configs           = { "maxmemory-policy" = "volatile-ttl" }
  depends_on              = [google_service_networking_connection.services]
}
