# One hostname in front of all public functions, and a second one that leads to the revisions that a deployment is about to
# give the traffic: the smoke test asks there.
locals {
  candidate = "candidate.${var.domain}"
}

resource "google_compute_global_address" "public" {
  name       = "public"
  depends_on = [google_project_service.needed]
}

resource "google_compute_managed_ssl_certificate" "public" {
  name = "public"
  managed {
    domains = [var.domain, local.candidate]
  }
}

locals {
  # Requests of one address in a minute. public: of what carries no Authorization; more, and the address rests for ten
  # minutes. keyed: not counted, as behind one address a whole company may start its applications in the morning, and a good
  # key is never refused because of its address; the functions have budgets. stripe: Stripe has few addresses, and sends
  # again what is refused; what it sends is signed, and not looked into, as a rule that mistakes it would cost somebody a
  # licence.
  armor = {
    public = { inspect = true, limit = 100, of = "!has(request.headers['authorization'])", action = "rate_based_ban", ban_seconds = 600 }
    keyed  = { inspect = true, limit = 0, of = "", action = "", ban_seconds = null }
    # Who reports an attack quotes it.
    incident = { inspect = false, limit = 100, of = "!has(request.headers['authorization'])", action = "rate_based_ban", ban_seconds = 600 }
    stripe   = { inspect = false, limit = 600, of = "true", action = "throttle", ban_seconds = null }
  }
}

resource "google_compute_security_policy" "armor" {
  for_each = local.armor
  name     = each.key
  dynamic "rule" {
    for_each = { for i, attack in ["sqli", "xss"] : attack => 1000 + i if each.value.inspect }
    content {
      priority    = rule.value
      action      = "deny(403)"
      description = rule.key == "sqli" ? "SQL injection" : "Cross-site scripting"
      match {
        expr {
          expression = "evaluatePreconfiguredWaf('${rule.key}-v33-stable', {'sensitivity': 1})"
        }
      }
    }
  }
  dynamic "rule" {
    for_each = each.value.limit > 0 ? [each.value] : []
    content {
      priority    = 2000
      action      = rule.value.action
      description = "At most ${rule.value.limit} requests a minute of one address"
      match {
        expr {
          expression = rule.value.of
        }
      }
      rate_limit_options {
        conform_action   = "allow"
        exceed_action    = "deny(429)"
        enforce_on_key   = "IP"
        ban_duration_sec = rule.value.ban_seconds
        rate_limit_threshold {
          count        = rule.value.limit
          interval_sec = 60
        }
      }
    }
  }
  rule {
    priority    = 2147483647
    action      = "allow"
    description = "Everything else"
    match {
      versioned_expr = "SRC_IPS_V1"
      config {
        src_ip_ranges = ["*"]
      }
    }
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

# The revision that a deployment tagged `candidate`; without one, 404.
resource "google_compute_region_network_endpoint_group" "candidate" {
  for_each              = local.public
  name                  = "${each.key}-candidate"
  region                = var.region
  network_endpoint_type = "SERVERLESS"
  cloud_run {
    service = google_cloud_run_v2_service.function[each.key].name
    tag     = "candidate"
  }
}

locals {
  # Backend to what it leads to and how it is guarded.
  backends = merge(
    { for name, f in local.public : name => { group = google_compute_region_network_endpoint_group.function[name].id, armor = f.armor } },
    { for name, f in local.public : "${name}-candidate" => { group = google_compute_region_network_endpoint_group.candidate[name].id, armor = f.armor } },
  )
  # Host to the end of its backends' names.
  hosts = { live = { host = var.domain, suffix = "" }, candidate = { host = local.candidate, suffix = "-candidate" } }
}

resource "google_compute_backend_service" "function" {
  for_each              = local.backends
  name                  = each.key
  protocol              = "HTTPS"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  security_policy       = each.value.armor == null ? null : google_compute_security_policy.armor[each.value.armor].id
  backend {
    group = each.value.group
  }
}

resource "google_compute_url_map" "public" {
  name            = "public"
  default_service = google_compute_backend_service.function["admin"].id
  dynamic "host_rule" {
    for_each = local.hosts
    content {
      hosts        = [host_rule.value.host]
      path_matcher = host_rule.key
    }
  }
  dynamic "path_matcher" {
    for_each = local.hosts
    content {
      name            = path_matcher.key
      default_service = google_compute_backend_service.function["admin${path_matcher.value.suffix}"].id
      dynamic "path_rule" {
        for_each = { for name, f in local.public : name => f.paths if length(f.paths) > 0 }
        content {
          paths   = path_rule.value
          service = google_compute_backend_service.function["${path_rule.key}${path_matcher.value.suffix}"].id
        }
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
