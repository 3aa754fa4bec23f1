mock_provider "google" {}

variables {
  project          = "usher-test"
  project_number   = "123456789012"
  environment      = "staging"
  domain           = "licences.example.com"
  mail_alerts_to   = "alerts@example.com"
  warm             = true
  highly_available = false
  sites            = ["https://app.example.com"]
  mail             = { host = "smtp.example.com", username = "usher", from = "Usher <licences@example.com>" }
  stripe_catalog   = {}
}

run "all_instances_together_fit_into_the_server" {
  command = plan
  assert {
    condition     = output.connections <= var.postgres_max_connections - 10
    error_message = "The table asks for more connections than PostgreSQL has."
  }
}

run "more_instances_than_the_server_has_connections_for_are_refused" {
  command = plan
  variables {
    scale = 3
  }
  expect_failures = [google_sql_database_instance.usher]
}

run "an_environment_that_nobody_knows_is_refused" {
  command = plan
  variables {
    environment = "production"
  }
  expect_failures = [var.environment]
}
