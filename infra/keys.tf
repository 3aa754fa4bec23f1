resource "google_kms_key_ring" "usher" {
  name       = "usher"
  location   = coalesce(var.keys_location, var.region)
  depends_on = [google_project_service.needed]
}

# The roots. Versions are made and destroyed by function rotate: Cloud KMS rotates only keys that encrypt.
resource "google_kms_crypto_key" "root" {
  name                          = "root"
  key_ring                      = google_kms_key_ring.usher.id
  purpose                       = "ASYMMETRIC_SIGN"
  skip_initial_version_creation = true
  destroy_scheduled_duration    = "2592000s" # 30 days to change one's mind
  version_template {
    algorithm        = "EC_SIGN_P256_SHA256"
    protection_level = "HSM"
  }
  lifecycle {
    prevent_destroy = true
  }
}

# What rotate does to the roots' versions, and nothing to the key itself: cloudkms.admin could also grant them to others.
resource "google_project_iam_custom_role" "key_rotator" {
  role_id     = "usherKeyRotator"
  title       = "Makes and destroys versions of Usher's roots"
  permissions = [for verb in ["create", "destroy", "get", "list", "update", "viewPublicKey"] : "cloudkms.cryptoKeyVersions.${verb}"]
}

# Wraps the receipt keys in the database.
resource "google_kms_crypto_key" "wrapping" {
  name                       = "wrapping"
  key_ring                   = google_kms_key_ring.usher.id
  purpose                    = "ENCRYPT_DECRYPT"
  rotation_period            = "7776000s" # 90 days
  destroy_scheduled_duration = "2592000s"
  lifecycle {
    prevent_destroy = true
  }
}

locals {
  # What each door to Cloud KMS grants. The roots' public keys are read by whoever signs with them or makes them.
  kms_roles = {
    decrypt = [{ key = "wrapping", role = "roles/cloudkms.cryptoKeyDecrypter" }]
    encrypt = [{ key = "wrapping", role = "roles/cloudkms.cryptoKeyEncrypter" }]
    sign    = [{ key = "root", role = "roles/cloudkms.signerVerifier" }]
    admin   = [{ key = "root", role = "projects/${var.project}/roles/${google_project_iam_custom_role.key_rotator.role_id}" }]
  }
  kms_grants = merge([for name, f in local.functions : merge([for door in f.kms : {
    for grant in local.kms_roles[door] : "${name}-${door}" => merge(grant, { function = name })
  }]...)]...)
  kms_keys = { root = google_kms_crypto_key.root.id, wrapping = google_kms_crypto_key.wrapping.id }

  # Made empty: values are added by an operator (docs/deploy.md) and never pass through Terraform or its state.
  secrets = toset([
    "license-key-peppers", "api-key-peppers", "notify-keys", "seat-token-keys", "pools-url", "budgets-url", "redis-ca", "postgres-ca", "migrate-url",
    "smtp-password", "stripe-api-key", "stripe-webhook-secrets",
  ])

  # What each function reads.
  reads = { for name, f in local.functions : name => concat(
    f.secrets,
    ["postgres-ca"],
    [for store in f.redis : "${store}-url"],
    length(f.redis) > 0 ? ["redis-ca"] : [],
  ) }
  secret_reads  = merge([for name, secrets in local.reads : { for s in secrets : "${name}-${s}" => { function = name, secret = s } }]...)
  secret_writes = merge([for name, f in local.functions : { for s in f.writes : "${name}-${s}" => { function = name, secret = s } }]...)
}

resource "google_kms_crypto_key_iam_member" "function" {
  for_each      = local.kms_grants
  crypto_key_id = local.kms_keys[each.value.key]
  role          = each.value.role
  member        = google_service_account.function[each.value.function].member
}

resource "google_pubsub_topic" "secrets" {
  name       = "secret-rotation"
  depends_on = [google_project_service.needed]
}

resource "google_pubsub_topic_iam_member" "secrets" {
  topic  = google_pubsub_topic.secrets.id
  role   = "roles/pubsub.publisher"
  member = "serviceAccount:service-${var.project_number}@gcp-sa-secretmanager.iam.gserviceaccount.com"
}

resource "google_secret_manager_secret" "usher" {
  for_each  = local.secrets
  secret_id = each.key
  replication {
    auto {}
  }
  # Says each 90 days on the topic that it is time; what to do is in docs/operations.md. The keys of seat tokens are
  # rotated by function rotate, and the certificates of Redis and PostgreSQL by Google.
  dynamic "rotation" {
    for_each = contains(["seat-token-keys", "redis-ca", "postgres-ca"], each.key) ? [] : [1]
    content {
      rotation_period    = "7776000s"
      next_rotation_time = timeadd(plantimestamp(), "2160h")
    }
  }
  dynamic "topics" {
    for_each = contains(["seat-token-keys", "redis-ca", "postgres-ca"], each.key) ? [] : [1]
    content {
      name = google_pubsub_topic.secrets.id
    }
  }
  lifecycle {
    prevent_destroy = true
    ignore_changes  = [rotation[0].next_rotation_time]
  }
  depends_on = [google_pubsub_topic_iam_member.secrets]
}

resource "google_secret_manager_secret_iam_member" "read" {
  for_each  = local.secret_reads
  secret_id = google_secret_manager_secret.usher[each.value.secret].id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.function[each.value.function].member
}

resource "google_secret_manager_secret_iam_member" "write" {
  for_each  = local.secret_writes
  secret_id = google_secret_manager_secret.usher[each.value.secret].id
  role      = "roles/secretmanager.secretVersionAdder"
  member    = google_service_account.function[each.value.function].member
}
