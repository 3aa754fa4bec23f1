# One hostname in front of all public functions.
resource "google_compute_global_address" "public" {
  name       = "public"
  depends_on = [google_project_service.needed]
}

resource "google_compute_managed_ssl_certificate" "public" {
  name = "public"
  managed {
    domains = [var.domain]
  }
}

resource "google_compute_security_policy" "public" {
  name = "public"
  rule {
    priority = 1000
    action   = "deny(403)"
    match {
      expr {
        expression = "evaluatePreconfiguredWaf('sqli-v33-stable', {'sensitivity': 1})"
      }
    }
    description = "SQL injection"
  }
  rule {
    priority = 1001
    action   = "deny(403)"
    match {
      expr {
        expression = "evaluatePreconfiguredWaf('xss-v33-stable', {'sensitivity': 1})"
      }
    }
    description = "Cross-site scripting"
  }
  # What carries no Authorization. Behind one address a whole company may start its applications in the morning, and a good
  # key is never refused because of its address: validate, acquire and release have a policy without this rule, and the
  # functions' own budgets.
  rule {
    priority = 2000
    action   = "rate_based_ban"
    match {
      expr {
        expression = "!has(request.headers['authorization'])"
      }
    }
    rate_limit_options {
      conform_action   = "allow"
      exceed_action    = "deny(429)"
      enforce_on_key   = "IP"
      ban_duration_sec = 600
      rate_limit_threshold {
        count        = 100
        interval_sec = 60
      }
    }
    description = "100 requests a minute of one address, then ten minutes of rest"
  }
  rule {
    priority = 2147483647
    action   = "allow"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
    description = "Everything else"
  }
}

resource "google_compute_security_policy" "keyed" {
  name = "keyed"
  rule {
    priority = 1000
    action   = "deny(403)"
    match {
      expr {
        expression = "evaluatePreconfiguredWaf('sqli-v33-stable', {'sensitivity': 1})"
      }
    }
    description = "SQL injection"
  }
  rule {
    priority = 1001
    action   = "deny(403)"
    match {
      expr {
        expression = "evaluatePreconfiguredWaf('xss-v33-stable', {'sensitivity': 1})"
      }
    }
    description = "Cross-site scripting"
  }
  rule {
    priority = 2147483647
    action   = "allow"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
    description = "Everything else"
  }
}

resource "google_compute_region_network_endpoint_group" "function" {
  for_each              = local.public
  name                  = each.key
  region                = var.region
  network_endpoint_type = "SERVERLESS"
  cloud_run {
    service = google_cloud_run_v2_service.function[each.key].name
  }
}

resource "google_compute_backend_service" "function" {
  for_each              = local.public
  name                  = each.key
  protocol              = "HTTPS"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  # None for heartbeats: they would cost more there than in the function, which checks a MAC before anything else.
  security_policy = each.key == "heartbeat" ? null : contains(each.value.secrets, "license-key-peppers") && !each.value.people ? google_compute_security_policy.keyed.id : google_compute_security_policy.public.id
  backend {
    group = google_compute_region_network_endpoint_group.function[each.key].id
  }
}

resource "google_compute_url_map" "public" {
  name            = "public"
  default_service = google_compute_backend_service.function["admin"].id
  host_rule {
    hosts        = [var.domain]
    path_matcher = "functions"
  }
  path_matcher {
    name            = "functions"
    default_service = google_compute_backend_service.function["admin"].id
    dynamic "path_rule" {
      for_each = { for name, f in local.public : name => f if length(f.paths) > 0 }
      content {
        paths   = path_rule.value.paths
        service = google_compute_backend_service.function[path_rule.key].id
      }
    }
  }
}

resource "google_compute_target_https_proxy" "public" {
  name             = "public"
  url_map          = google_compute_url_map.public.id
  ssl_certificates = [google_compute_managed_ssl_certificate.public.id]
}

resource "google_compute_global_forwarding_rule" "public" {
  name                  = "public"
  target                = google_compute_target_https_proxy.public.id
  ip_address            = google_compute_global_address.public.id
  port_range            = "443"
  load_balancing_scheme = "EXTERNAL_MANAGED"
}

output "address" {
  description = "Where the domain's A record must point."
  value       = google_compute_global_address.public.address
}
