resource "google_project_service" "needed" {
  for_each = toset([
    "artifactregistry", "billingbudgets", "cloudbuild", "cloudkms", "cloudscheduler", "compute", "firestore", "iam", "logging", "monitoring", "pubsub", "redis", "run",
    "secretmanager", "servicenetworking", "sqladmin", "telemetry",
  ])
  service            = "${each.key}.googleapis.com"
  disable_on_destroy = false
}

resource "google_compute_network" "usher" {
  name                    = "usher"
  auto_create_subnetworks = false
  depends_on              = [google_project_service.needed]
}

# Cloud Run wants a /26 at least, and up to two addresses for each instance: a /24 has enough for the table's maxima.
resource "google_compute_subnetwork" "functions" {
  name                     = "functions"
  network                  = google_compute_network.usher.id
  region                   = var.region
  ip_cidr_range            = "10.8.0.0/24"
  private_ip_google_access = true
}

# Where Cloud SQL and Memorystore have their private addresses.
resource "google_compute_global_address" "services" {
  name          = "services"
  network       = google_compute_network.usher.id
  purpose       = "VPC_PEERING"
  address_type  = "INTERNAL"
  prefix_length = 16
}

resource "google_service_networking_connection" "services" {
  network                 = google_compute_network.usher.id
  service                 = "servicenetworking.googleapis.com"
  reserved_peering_ranges = [google_compute_global_address.services.name]
}
