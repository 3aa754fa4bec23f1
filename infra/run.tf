resource "google_artifact_registry_repository" "usher" {
  repository_id = "usher"
  location      = var.region
  format        = "DOCKER"
  depends_on    = [google_project_service.needed]
}

# Each function is somebody of its own. An account is granted nothing but what the table says, and no role in the project.
resource "google_service_account" "function" {
  for_each     = local.functions
  account_id   = "fn-${each.key}"
  display_name = "Function ${each.key}"
}

# Every function may tell what it measures, and nothing else in the project. There is no less of these roles.
resource "google_project_iam_member" "telemetry" {
  for_each = { for pair in setproduct(keys(local.functions), ["metricsWriter", "tracesWriter"]) : join("-", pair) => pair }
  project  = var.project
  role     = "roles/telemetry.${each.value[1]}"
  member   = google_service_account.function[each.value[0]].member
}

locals {
  registry = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.usher.repository_id}"
  url      = "https://${var.domain}"
  own_urls = { for name, f in local.functions : name => "https://${name}-${var.project_number}.${var.region}.run.app" }

  # Who is measured, beside what a function knows itself; Cloud Monitoring wants to know the project and the place.
  measured = {
    "gcp.project_id"              = var.project
    "cloud.provider"              = "gcp"
    "cloud.platform"              = "gcp_cloud_run"
    "cloud.region"                = var.region
    "deployment.environment.name" = var.environment
  }

  # The environment that follows from a row, in clear.
  variables = { for name, f in local.functions : name => merge(
    { GOOGLE_CLOUD_PROJECT = var.project, DATABASE_IAM = "true", DATABASE_MAX_CONNS = tostring(f.connections) },
    # The second role of admin is the operator's.
    { for i, role in f.postgres : i == 0 ? "DATABASE_URL" : "OPERATOR_DATABASE_URL" => local.database_urls[name][role] },
    # Telemetry goes to Google's own receiver of OTLP, in the name of the function's account.
    { OTEL_EXPORTER_OTLP_ENDPOINT = "https://telemetry.googleapis.com", OTEL_RESOURCE_ATTRIBUTES = join(",", [for k, v in local.measured : "${k}=${v}"]) },
    # Behind the load balancer two proxies append to X-Forwarded-For, else one.
    { TRUSTED_HOPS = contains(keys(local.public), name) ? "2" : "1" },
    # Redis shows a certificate of its own authority: it is believed beside those of the image.
    length(f.redis) > 0 ? { SSL_CERT_DIR = "/etc/ssl/certs:/var/run/redis-ca" } : {},
    length(setintersection(f.kms, ["decrypt", "encrypt"])) > 0 ? { KMS_WRAPPING_KEY = google_kms_crypto_key.wrapping.id } : {},
    contains(f.kms, "admin") ? { KMS_ROOT_KEY = google_kms_crypto_key.root.id } : {},
    contains(f.writes, "seat-token-keys") ? { SEAT_TOKEN_SECRET = google_secret_manager_secret.usher["seat-token-keys"].id } : {},
    contains(f.secrets, "seat-token-keys") && !contains(f.writes, "seat-token-keys") ? { SEAT_TOKEN_KEYS_FILE = "/var/run/seat-token-keys/ring" } : {},
    contains(f.settings, "people") ? { IDENTITY_ISSUER = "https://securetoken.google.com/${var.project}", IDENTITY_AUDIENCE = var.project } : {},
    contains(f.settings, "receipts") ? { RECEIPT_ISSUER = local.url } : {},
    contains(f.settings, "catalog") ? { STRIPE_CATALOG = jsonencode(var.stripe_catalog) } : {},
    contains(f.settings, "sites") ? { BILLING_ORIGINS = join(",", var.sites) } : {},
    length(setintersection(f.settings, ["journal", "entries"])) > 0 ? { JOURNAL_PROJECT = var.project, JOURNAL_DATABASE = google_firestore_database.journal.name } : {},
    contains(f.settings, "mail") ? { SMTP_HOST = var.mail.host, SMTP_USERNAME = var.mail.username, MAIL_FROM = var.mail.from } : {},
    f.schedule != null ? { SCHEDULER_AUDIENCE = local.own_urls[name], SCHEDULER_EMAIL = google_service_account.scheduler.email } : {},
    lookup(var.more, name, {}),
  ) }

  # And what is taken from secrets, by the variable's name.
  secret_variables = { for name, f in local.functions : name => merge(
    contains(f.redis, "pools") ? { REDIS_URL = "pools-url" } : {},
    contains(f.redis, "budgets") ? { BUDGET_REDIS_URL = "budgets-url" } : {},
    { for secret in f.secrets : upper(replace(secret, "-", "_")) => secret if secret != "seat-token-keys" },
  ) }

  # Mounted as files, which Cloud Run reads afresh.
  files = { for name, f in local.functions : name => merge(
    { postgres-ca = "ca.pem" },
    length(f.redis) > 0 ? { redis-ca = "ca.pem" } : {},
    contains(f.secrets, "seat-token-keys") && !contains(f.writes, "seat-token-keys") ? { seat-token-keys = "ring" } : {},
  ) }
}

resource "google_cloud_run_v2_service" "function" {
  for_each            = local.functions
  name                = each.key
  location            = var.region
  deletion_protection = var.environment == "prod"
  # Public ones are reached through the load balancer only. Cloud Scheduler counts as internal.
  ingress = contains(keys(local.public), each.key) ? "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER" : "INGRESS_TRAFFIC_INTERNAL_ONLY"

  template {
    service_account                  = google_service_account.function[each.key].email
    max_instance_request_concurrency = each.value.concurrency
    timeout                          = each.value.schedule == null ? "60s" : "${each.value.schedule.seconds}s"
    scaling {
      min_instance_count = var.warm ? each.value.min : 0
      max_instance_count = ceil(each.value.max * var.scale)
    }
    vpc_access {
      egress = "PRIVATE_RANGES_ONLY"
      network_interfaces {
        network    = google_compute_network.usher.id
        subnetwork = google_compute_subnetwork.functions.id
      }
    }
    containers {
      image = "${local.registry}/${each.key}:${var.image_tag}"
      resources {
        limits            = { cpu = each.value.cpu, memory = each.value.memory }
        cpu_idle          = !each.value.always_cpu
        startup_cpu_boost = true
      }
      # Direct VPC egress can take a minute to attach: an instance serves when its stores answer.
      startup_probe {
        period_seconds    = 2
        timeout_seconds   = 2
        failure_threshold = 45
        http_get {
          path = "/health/ready"
        }
      }
      liveness_probe {
        period_seconds    = 30
        failure_threshold = 3
        http_get {
          path = "/health"
        }
      }
      dynamic "env" {
        for_each = local.variables[each.key]
        content {
          name  = env.key
          value = env.value
        }
      }
      dynamic "env" {
        for_each = local.secret_variables[each.key]
        content {
          name = env.key
          value_source {
            secret_key_ref {
              secret  = google_secret_manager_secret.usher[env.value].secret_id
              version = "latest"
            }
          }
        }
      }
      dynamic "volume_mounts" {
        for_each = local.files[each.key]
        content {
          name       = volume_mounts.key
          mount_path = "/var/run/${volume_mounts.key}"
        }
      }
    }
    dynamic "volumes" {
      for_each = local.files[each.key]
      content {
        name = volumes.key
        secret {
          secret = google_secret_manager_secret.usher[volumes.key].secret_id
          items {
            path    = volumes.value
            version = "latest"
          }
        }
      }
    }
  }

  lifecycle {
    # Deployments change these.
    ignore_changes = [template[0].containers[0].image, template[0].labels, template[0].revision, traffic, client, client_version]
  }
  depends_on = [google_secret_manager_secret_iam_member.read, google_secret_manager_secret_iam_member.write, google_kms_crypto_key_iam_member.function, google_project_iam_member.database, google_sql_user.function]
}

resource "google_cloud_run_v2_service_iam_member" "public" {
  for_each = local.public
  name     = google_cloud_run_v2_service.function[each.key].name
  location = var.region
  role     = "roles/run.invoker"
  member   = "allUsers"
}

resource "google_service_account" "scheduler" {
  account_id   = "scheduler"
  display_name = "Cloud Scheduler, calling functions"
}

resource "google_cloud_run_v2_service_iam_member" "scheduler" {
  for_each = local.scheduled
  name     = google_cloud_run_v2_service.function[each.key].name
  location = var.region
  role     = "roles/run.invoker"
  member   = google_service_account.scheduler.member
}

resource "google_cloud_scheduler_job" "function" {
  for_each         = local.scheduled
  depends_on       = [google_cloud_run_v2_service_iam_member.scheduler]
  name             = each.key
  region           = var.region
  schedule         = each.value.schedule.cron
  time_zone        = "Etc/UTC"
  attempt_deadline = "${each.value.schedule.seconds}s"
  retry_config {
    # A sweep comes again in a minute anyway; a rotation not before tomorrow.
    retry_count          = each.value.schedule.cron == "* * * * *" ? 0 : 5
    min_backoff_duration = "30s"
    max_backoff_duration = "600s"
  }
  http_target {
    http_method = "POST"
    uri         = "${local.own_urls[each.key]}${each.value.schedule.path}"
    headers     = { "Content-Type" = "application/json" }
    body        = base64encode("{}")
    oidc_token {
      service_account_email = google_service_account.scheduler.email
      audience              = local.own_urls[each.key]
    }
  }
}
