resource "google_monitoring_notification_channel" "mail" {
  display_name = "Usher alerts"
  type         = "email"
  labels       = { email_address = var.mail_alerts_to }
  depends_on   = [google_project_service.needed]
}

locals {
  # Alerts on what Google measures of its own accord, each with what to do. Filters are of Cloud Monitoring, queries of PromQL.
  alerts = {
    "Errors over 1 %" = {
      query = "sum(rate(run_googleapis_com:request_count{monitored_resource=\"cloud_run_revision\",response_code_class=\"5xx\"}[5m])) / sum(rate(run_googleapis_com:request_count{monitored_resource=\"cloud_run_revision\"}[5m])) > 0.01"
      hold  = "300s"
      text  = "See which function and code the logs name (severity ERROR), then docs/operations.md, «What happens when a store is out»."
    }
    "validate is slow" = {
      query = "histogram_quantile(0.99, sum by (le) (rate(run_googleapis_com:request_latencies_bucket{monitored_resource=\"cloud_run_revision\",service_name=\"validate\"}[5m]))) > 200"
      hold  = "300s"
      text  = "p99 is over its target of 200 ms. See whether instances, PostgreSQL or Redis are at their limits: docs/operations.md, «What to watch»."
    }
    "Sweep is late" = {
      query = "sum(increase(run_googleapis_com:request_count{monitored_resource=\"cloud_run_revision\",service_name=\"sweep\",response_code_class=\"2xx\"}[5m])) < 1 or absent(run_googleapis_com:request_count{monitored_resource=\"cloud_run_revision\",service_name=\"sweep\"})"
      hold  = "300s"
      text  = "Seats still come free without it, but rows stay open and changed limits arrive late: docs/operations.md, «What happens when a store is out»."
    }
    "PostgreSQL: connections over 90 %" = {
      query = "sum(cloudsql_googleapis_com:database_postgresql_num_backends{monitored_resource=\"cloudsql_database\"}) > ${floor(var.postgres_max_connections * 0.9)}"
      hold  = "300s"
      text  = "Lower the maxima in infra/functions.tf, or raise the server with its max_connections."
    }
    "Redis: memory over 75 %" = {
      query = "max(redis_googleapis_com:stats_memory_usage_ratio{monitored_resource=\"redis_instance\",instance_id=~\".*pools\"}) > 0.75"
      hold  = "300s"
      text  = "With noeviction a full Redis refuses to seat anybody. Raise redis_gb."
    }
  }
}

resource "google_monitoring_alert_policy" "usher" {
  for_each     = local.alerts
  display_name = each.key
  combiner     = "OR"
  conditions {
    display_name = each.key
    condition_prometheus_query_language {
      query               = each.value.query
      duration            = each.value.hold
      evaluation_interval = "60s"
    }
  }
  documentation {
    content   = each.value.text
    mime_type = "text/markdown"
  }
  notification_channels = [google_monitoring_notification_channel.mail.id]
}

# From outside, through the load balancer: the key set is what every client depends on.
resource "google_monitoring_uptime_check_config" "keys" {
  display_name = "Key set"
  timeout      = "10s"
  period       = "300s"
  http_check {
    path         = "/.well-known/jwks.json"
    port         = 443
    use_ssl      = true
    validate_ssl = true
  }
  monitored_resource {
    type   = "uptime_url"
    labels = { project_id = var.project, host = var.domain }
  }
}

resource "google_billing_budget" "month" {
  count           = var.billing_account == "" ? 0 : 1
  billing_account = var.billing_account
  display_name    = "Usher ${var.environment}"
  budget_filter {
    projects = ["projects/${var.project_number}"]
  }
  amount {
    specified_amount {
      currency_code = "USD"
      units         = tostring(var.monthly_budget_usd)
    }
  }
  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]
    content {
      threshold_percent = threshold_rules.value
    }
  }
}
