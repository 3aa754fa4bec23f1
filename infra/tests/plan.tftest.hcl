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

run "what_outlives_a_region_is_not_in_it" {
  command = plan
  variables {
    keys_location    = "europe"
    journal_location = "eur3"
    standby_region   = "europe-west4"
  }
  assert {
    condition     = google_kms_key_ring.usher.location == "europe" && google_firestore_database.journal.location_id == "eur3" && google_sql_database_instance.standby[0].region == "europe-west4"
    error_message = "A lost region takes the keys, the journal or the standby with it."
  }
}

run "without_a_second_region_everything_is_in_the_one" {
  command = plan
  assert {
    condition     = google_kms_key_ring.usher.location == var.region && google_firestore_database.journal.location_id == var.region && length(google_sql_database_instance.standby) == 0
    error_message = "Something is elsewhere."
  }
}

run "an_environment_that_nobody_knows_is_refused" {
  command = plan
  variables {
    environment = "production"
  }
  expect_failures = [var.environment]
}

run "a_variable_of_a_function_that_is_not_there_is_refused" {
  command = plan
  variables {
    more = { subscriptions = { STRIPE_RETENTION_COUPON = "stay" } }
  }
  expect_failures = [var.more]
}

run "a_further_variable_reaches_its_function_alone" {
  command = plan
  variables {
    more = { subscription = { STRIPE_RETENTION_COUPON = "stay" } }
  }
  assert {
    condition = [for name, s in google_cloud_run_v2_service.function : name
    if contains(s.template[0].containers[0].env[*].name, "STRIPE_RETENTION_COUPON")] == ["subscription"]
    error_message = "Another function was given it, or none."
  }
}
