terraform {
  required_version = ">= 1.9"
  # `make infra` checks against the schemas of this release (schema/google.json.gz).
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.50"
    }
  }
  # The bucket and prefix are given at `terraform init`.
  backend "gcs" {}
}

provider "google" {
  project = var.project
  region  = var.region
}
