# What cloudbuild.yaml runs as, and the job that migrates the database.

resource "google_service_account" "migrate" {
  account_id   = "migrate"
  display_name = "The job that migrates the database"
}

resource "google_secret_manager_secret_iam_member" "migrate" {
  secret_id = google_secret_manager_secret.usher["migrate-url"].id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.migrate.member
}

resource "google_cloud_run_v2_job" "migrate" {
  name                = "migrate"
  location            = var.region
  deletion_protection = false # it holds nothing
  template {
    template {
      service_account = google_service_account.migrate.email
      timeout         = "1800s"
      max_retries     = 0 # who deploys reads why it failed, and runs it again: it takes up where it stopped
      vpc_access {
        egress = "PRIVATE_RANGES_ONLY"
        network_interfaces {
          network    = google_compute_network.usher.id
          subnetwork = google_compute_subnetwork.functions.id
        }
      }
      containers {
        image = "${local.registry}/migrate:${var.image_tag}"
        # As whom each account acts: what it grants when the roles are there.
        env {
          name  = "DATABASE_LOGINS"
          value = jsonencode({ for name, f in local.functions : local.logins[name] => f.postgres })
        }
        env {
          name = "DATABASE_URL"
          value_source {
            secret_key_ref {
              secret  = google_secret_manager_secret.usher["migrate-url"].secret_id
              version = "latest"
            }
          }
        }
      }
    }
  }
  lifecycle {
    ignore_changes = [template[0].template[0].containers[0].image, client, client_version]
  }
  depends_on = [google_secret_manager_secret_iam_member.migrate, google_sql_user.function]
}

resource "google_service_account" "deployer" {
  account_id   = "deployer"
  display_name = "Cloud Build, deploying"
}

# What can only be asked of a project: which services there are, and whether an operation has ended.
resource "google_project_iam_custom_role" "deployer" {
  role_id     = "usherDeployer"
  title       = "Lists Usher's services and waits for what was asked of them"
  permissions = ["run.operations.get", "run.services.list"]
}

# Writes its log and reads error rates; in the whole project it may do nothing else.
resource "google_project_iam_member" "deployer" {
  for_each = toset(["roles/logging.logWriter", "roles/monitoring.viewer", "projects/${var.project}/roles/${google_project_iam_custom_role.deployer.role_id}"])
  project  = var.project
  role     = each.key
  member   = google_service_account.deployer.member
}

resource "google_artifact_registry_repository_iam_member" "deployer" {
  repository = google_artifact_registry_repository.usher.name
  location   = var.region
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.deployer.member
}

resource "google_cloud_run_v2_service_iam_member" "deployer" {
  for_each = local.functions
  name     = google_cloud_run_v2_service.function[each.key].name
  location = var.region
  role     = "roles/run.developer"
  member   = google_service_account.deployer.member
}

resource "google_cloud_run_v2_job_iam_member" "deployer" {
  name     = google_cloud_run_v2_job.migrate.name
  location = var.region
  role     = "roles/run.developer"
  member   = google_service_account.deployer.member
}

# A new revision runs as its function's account: whoever makes one must be allowed to act as it.
resource "google_service_account_iam_member" "deployer" {
  for_each           = merge(google_service_account.function, { migrate = google_service_account.migrate })
  service_account_id = each.value.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.deployer.member
}

# What begins a release: a push to main in dev, a tag such as v1.2.0-rc.1 in staging, and one such as v1.2.0 in prod, where
# somebody must agree. `make deploy` begins one by hand.
resource "google_cloudbuild_trigger" "release" {
  count           = var.repository == "" ? 0 : 1
  name            = "release"
  location        = var.region
  filename        = "cloudbuild.yaml"
  service_account = google_service_account.deployer.id
  substitutions   = { _REGION = var.region, _DOMAIN = var.domain }
  repository_event_config {
    repository = var.repository
    push {
      branch = var.environment == "dev" ? "^main$" : null
      tag    = { dev = null, staging = "^v[0-9]+\\.[0-9]+\\.[0-9]+-rc\\.[0-9]+$", prod = "^v[0-9]+\\.[0-9]+\\.[0-9]+$" }[var.environment]
    }
  }
  approval_config {
    approval_required = var.environment == "prod"
  }
}
