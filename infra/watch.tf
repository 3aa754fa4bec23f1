resource "google_monitoring_notification_channel" "mail" {
  display_name = "Usher alerts"
  type         = "email"
  labels       = { email_address = var.mail_alerts_to }
  depends_on   = [google_project_service.needed]
}

locals {
  queries = yamldecode(file("${path.module}/queries.yaml"))
  runbook = "https://github.com/coditect/usher/blob/main/docs/operations/alerts.md"

  # Alerts on what Google measures of its own accord, and on what is logged; those on what functions measure are in queries.yaml.
  # The key is the heading in docs/operations/alerts.md that says what to do.
  alerts = {
    # What a function that does not live long enough to tell cannot tell.
    "errors-of-cloud-run" = {
      title = "Errors over 1 %, as Cloud Run counts them"
      hold  = "300s"
      query = "sum(rate(run_googleapis_com:request_count{monitored_resource=\"cloud_run_revision\",response_code_class=\"5xx\"}[5m])) / sum(rate(run_googleapis_com:request_count{monitored_resource=\"cloud_run_revision\"}[5m])) > 0.01"
    }
    "postgres-connections" = {
      title = "PostgreSQL: connections over 90 %"
      hold  = "300s"
      query = "sum(cloudsql_googleapis_com:database_postgresql_num_backends{monitored_resource=\"cloudsql_database\"}) > ${floor(var.postgres_max_connections * 0.9)}"
    }
    # Beside a standby alone. What the primary cannot send in time, and what the standby cannot apply in time: each of them is lost with the region.
    "standby-late" = {
      title = "The standby of PostgreSQL is five minutes behind"
      hold  = "300s"
      query = join(" or ", [for lag in ["network_lag", "replica_lag"] : "max(cloudsql_googleapis_com:database_replication_${lag}{monitored_resource=\"cloudsql_database\"}) > 300"])
    }
    "redis-memory" = {
      title = "Redis: memory over 75 %"
      hold  = "300s"
      query = "max(redis_googleapis_com:stats_memory_usage_ratio{monitored_resource=\"redis_instance\",instance_id=~\".*pools\"}) > 0.75"
    }
    "from-outside" = {
      title = "The key set or heartbeat cannot be reached from outside"
      hold  = "300s"
      query = "min by (check_id) (avg_over_time(monitoring_googleapis_com:uptime_check_check_passed{monitored_resource=\"uptime_url\"}[10m])) < 0.5"
    }
    "cannot-start" = {
      title = "A function cannot start"
      hold  = "0s"
      query = "sum(increase(logging_googleapis_com:user_usher_cannot_start{monitored_resource=\"cloud_run_revision\"}[10m])) > 0"
    }
    "clock-of-redis" = {
      title = "The clock of Redis went back"
      hold  = "0s"
      query = "sum(increase(logging_googleapis_com:user_usher_clock_of_redis{monitored_resource=\"cloud_run_revision\"}[10m])) > 0"
    }
  }
}

# What is logged and not measured: a process that cannot start pushes nothing.
resource "google_logging_metric" "usher" {
  for_each = {
    cannot_start   = "cannot start"
    clock_of_redis = "the clock of Redis went back: leases end later than they should"
  }
  name   = "usher_${each.key}"
  filter = "resource.type=\"cloud_run_revision\" AND jsonPayload.message=\"${each.value}\""
  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
  }
}

resource "google_monitoring_alert_policy" "usher" {
  for_each     = merge(local.alerts, local.queries.alerts)
  display_name = each.value.title
  combiner     = "OR"
  conditions {
    display_name = each.value.title
    condition_prometheus_query_language {
      query               = each.value.query
      duration            = each.value.hold
      evaluation_interval = "60s"
    }
  }
  documentation {
    content   = "What it means, what to look at first and what to do: [${each.key}](${local.runbook}#${each.key})"
    mime_type = "text/markdown"
  }
  notification_channels = [google_monitoring_notification_channel.mail.id]
  depends_on            = [google_logging_metric.usher]
}

# The charts of queries.yaml, three in a row.
resource "google_monitoring_dashboard" "usher" {
  dashboard_json = jsonencode({
    displayName = "Usher"
    mosaicLayout = {
      columns = 48
      tiles = [for i, chart in local.queries.charts : {
        xPos   = 16 * (i % 3)
        yPos   = 16 * floor(i / 3)
        width  = 16
        height = 16
        widget = {
          title = chart.title
          xyChart = {
            dataSets = [{ plotType = "LINE", timeSeriesQuery = { prometheusQuery = chart.query } }]
          }
        }
      }]
    }
  })
}

# From outside, through the load balancer, in three parts of the world: the key set, which every client depends on, and heartbeat, which every
# seat does. Without a token it refuses, and needs no store for that: so it is up.
resource "google_monitoring_uptime_check_config" "heartbeat" {
  display_name     = "Heartbeat"
  timeout          = "10s"
  period           = "300s"
  selected_regions = ["EUROPE", "USA", "ASIA_PACIFIC"]
  http_check {
    path           = "/v1/heartbeat"
    request_method = "POST"
    content_type   = "USER_PROVIDED"
    # What a client sends, and what is asked for is JSON.
    custom_content_type = "application/json"
    body                = base64encode("{}")
    port                = 443
    use_ssl             = true
    validate_ssl        = true
    accepted_response_status_codes {
      status_value = 401
    }
  }
  content_matchers {
    content = "seat_token_invalid"
    matcher = "CONTAINS_STRING"
  }
  monitored_resource {
    type   = "uptime_url"
    labels = { project_id = var.project, host = var.domain }
  }
}

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
