# What may touch what: one row for each folder of functions/, and nothing else grants a function anything.
#
#   caller       public, stripe: through the load balancer. scheduler: Cloud Scheduler's own account alone
#   paths        of the URL map, for public ones; admin has what is left
#   armor        policy of Cloud Armor: public, keyed, incident, stripe (edge.tf). None for heartbeats: they would cost more there than
#                in the function, which checks a MAC before anything else
#   schedule     cron, in UTC, the path that is posted to, and the seconds that an answer may take: a little more than the run
#   postgres     roles in the database that its account may act as
#   redis        pools: the seats. budgets: who asks how often
#   kms          decrypt, encrypt: the key that wraps receipt keys. sign: the roots. admin: makes and destroys roots' versions
#   secrets      read: a key ring in an environment variable, or (seat-token-keys) a file that is read afresh
#   writes       secrets that it adds versions to
#   settings     in clear. people: whose ID tokens are believed. receipts: in whose name they are issued. catalog: what is sold
#                at Stripe. journal: reads the switches. entries: reads the journal, and creates its entries. sites: where a person may be sent back to from there. mail: by which server, and from whom
#   cpu, memory  of an instance
#   always_cpu   instance-based billing: CPU also between requests
#   concurrency  requests at once in an instance
#   min, max     instances
#   connections  to PostgreSQL for each role, of one instance
#
# The tests of this folder compare each row with the composition root of its function (functions/NAME/open.go): a door that
# is declared and not used is as wrong as one that is used and not declared.

locals {
  functions = {
    validate = {
      caller   = "public", paths = ["/v1/validate"], armor = "keyed", schedule = null
      postgres = ["usher_validate"], redis = ["pools", "budgets"], kms = ["decrypt"]
      secrets  = ["license-key-peppers"], writes = [], settings = ["receipts"]
      # A start-up of every client: bursts in the morning. One CPU signs some thousands of receipts a second.
      cpu = "1", memory = "256Mi", always_cpu = false
      # Waits for stores most of its time: many at once; 4 connections answer 80, as each holds one for 1 or 2 ms.
      concurrency = 80
      # A start takes a second, and the target for p99 is 200 ms: one stands ready.
      min = 1, max = 6, connections = 4
    }
    acquire = {
      caller   = "public", paths = ["/v1/acquire"], armor = "keyed", schedule = null
      postgres = ["usher_acquire"], redis = ["pools", "budgets"], kms = ["decrypt"]
      secrets  = ["license-key-peppers", "seat-token-keys"], writes = [], settings = ["receipts"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # Rows that are written at once share a commit: the more, the less each costs (docs/performance.md, measured with 64).
      concurrency = 80
      # Direct VPC egress may take a minute to attach: nobody should wait for a seat that long.
      min = 1, max = 8, connections = 4
    }
    heartbeat = {
      caller   = "public", paths = ["/v1/heartbeat"], armor = null, schedule = null
      postgres = ["usher_heartbeat"], redis = ["pools"], kms = []
      secrets  = ["seat-token-keys"], writes = [], settings = []
      # The hot path, busy all day: instance-based billing costs a quarter of request-based for a million of them.
      cpu = "1", memory = "256Mi", always_cpu = true
      # One round trip to Redis each, and trips are shared: the more at once, the fewer trips.
      concurrency = 250
      # Two, in case one is lost: a lease that is not renewed is somebody's lost work.
      min = 2, max = 10
      # PostgreSQL is asked only when a pool must be built anew.
      connections = 1
    }
    release = {
      caller   = "public", paths = ["/v1/release"], armor = "keyed", schedule = null
      postgres = ["usher_release"], redis = ["pools", "budgets"], kms = []
      secrets  = ["license-key-peppers", "seat-token-keys"], writes = [], settings = []
      cpu      = "1", memory = "256Mi", always_cpu = false
      # Each closes a row, as acquire opens one, and shares its commit.
      concurrency = 80
      # A client that leaves does not mind a start: what it gives back has a lease that ends by itself.
      min = 0, max = 4, connections = 4
    }
    borrow = {
      caller   = "public", paths = ["/v1/borrow"], armor = "public", schedule = null
      postgres = ["usher_borrow"], redis = ["pools"], kms = ["decrypt"]
      secrets  = ["seat-token-keys"], writes = [], settings = ["receipts"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # Once a journey for each laptop: rare.
      concurrency = 40
      min         = 0, max = 2, connections = 2
    }
    keys = {
      caller   = "public", paths = ["/.well-known/jwks.json", "/v1/revocations"], armor = "keyed", schedule = null
      postgres = ["usher_keys"], redis = [], kms = ["sign"]
      secrets  = [], writes = [], settings = ["receipts"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # Answered from memory, and clients keep it for an hour.
      concurrency = 250
      min         = 0, max = 2, connections = 1
    }
    register = {
      caller   = "public", paths = ["/v1/register"], armor = "public", schedule = null
      postgres = ["usher_register"], redis = ["budgets"], kms = []
      secrets  = ["license-key-peppers"], writes = [], settings = ["people", "journal"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # Once for each customer. Few instances also bound what somebody who registers in bulk can do.
      concurrency = 20
      min         = 0, max = 2, connections = 2
    }
    trial = {
      caller   = "public", paths = ["/v1/trial"], armor = "public", schedule = null
      postgres = ["usher_trial"], redis = ["budgets"], kms = []
      secrets  = ["license-key-peppers"], writes = [], settings = ["people", "journal"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # As register: once for each customer.
      concurrency = 20
      min         = 0, max = 2, connections = 2
    }
    usage = {
      caller = "public", paths = ["/v1/usage"], armor = "public", schedule = null
      # Redis hears of refused credentials alone: counting goes on without it.
      postgres = ["usher_usage"], redis = ["budgets"], kms = []
      secrets  = ["seat-token-keys", "api-key-peppers"], writes = [], settings = ["people"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # Up to 500 events each, and those of one licence wait for each other at the month's row.
      concurrency = 20
      min         = 0, max = 4, connections = 4
    }
    admin = {
      caller = "public", paths = [], armor = "public", schedule = null
      # As a tenant's own people, and as the operator: two roles, two pools.
      postgres = ["usher_admin", "usher_operator"], redis = ["pools", "budgets"], kms = ["sign"]
      secrets  = ["license-key-peppers", "api-key-peppers", "notify-keys"], writes = [], settings = ["people", "receipts", "journal"]
      # Reports and lists are the longest answers of all.
      cpu         = "1", memory = "512Mi", always_cpu = false
      concurrency = 40
      min         = 0, max = 4, connections = 3
    }
    checkout = {
      caller   = "public", paths = ["/v1/checkout"], armor = "public", schedule = null
      postgres = ["usher_checkout"], redis = ["budgets"], kms = []
      secrets  = ["stripe-api-key"], writes = [], settings = ["people", "catalog", "sites", "journal"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # Each may hold a connection for the 4 s that Stripe is given: more at once would only queue for it.
      concurrency = 4
      # Somebody buys a few times a day, and waits for Stripe's page anyway.
      min = 0, max = 2, connections = 2
    }
    subscription = {
      caller = "public", paths = ["/v1/subscription", "/v1/subscription/*"], armor = "public", schedule = null
      # Tells the pools at once when seats were added or a subscription ended.
      postgres = ["usher_subscription"], redis = ["pools", "budgets"], kms = []
      secrets  = ["license-key-peppers", "notify-keys", "stripe-api-key"], writes = [], settings = ["people", "catalog", "sites", "journal"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # As checkout.
      concurrency = 4
      min         = 0, max = 2, connections = 2
    }
    webhook = {
      caller = "stripe", paths = ["/v1/stripe/*"], armor = "stripe", schedule = null
      # People and API keys: operators have events handled again.
      postgres = ["usher_webhook"], redis = ["pools", "budgets"], kms = []
      secrets  = ["license-key-peppers", "api-key-peppers", "notify-keys", "stripe-api-key", "stripe-webhook-secrets"], writes = [], settings = ["people", "catalog", "journal"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # Events come by the handful, and each holds a connection while Stripe is asked; what waits too long Stripe sends again.
      concurrency = 8
      min         = 0, max = 2, connections = 4
    }
    incident = {
      # Operators by their tokens, and Cloud Scheduler for the watch.
      caller   = "public", paths = ["/v1/incidents", "/v1/incidents/*", "/v1/switches", "/v1/checkpoints", "/v1/checkpoints/*"], armor = "incident"
      schedule = { cron = "* * * * *", path = "/tasks/watch", seconds = 60 }
      # It stops whatever must be stopped: pools are frozen, keys are revoked and replaced.
      postgres = ["usher_incident"], redis = ["pools", "budgets"], kms = ["encrypt", "sign", "admin"]
      secrets  = ["api-key-peppers", "seat-token-keys"], writes = ["seat-token-keys"], settings = ["people", "receipts", "entries"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # A handful of people on a bad day, and the watch.
      concurrency = 10
      # The watch keeps one warm most of the time.
      min = 0, max = 2, connections = 2
    }
    deliver = {
      caller = "scheduler", paths = [], armor = null
      # Every minute; a run ends within 50 s.
      schedule = { cron = "* * * * *", path = "/tasks/deliver", seconds = 60 }
      postgres = ["usher_deliver"], redis = [], kms = []
      secrets  = ["notify-keys", "smtp-password"], writes = [], settings = ["mail"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # One run at a time; another would only take its share of the same outbox.
      concurrency = 1
      min         = 0, max = 1, connections = 2
    }
    sweep = {
      caller = "scheduler", paths = []
      # Every minute; a run ends within 50 s.
      schedule = { cron = "* * * * *", path = "/tasks/sweep", seconds = 60 }
      postgres = ["usher_sweep"], redis = ["pools"], kms = []
      secrets  = [], writes = [], settings = []
      cpu      = "1", memory = "256Mi", always_cpu = false
      # One run at a time; the next one would do the same work.
      concurrency = 1
      min         = 0, max = 1, connections = 2
    }
    meter = {
      caller = "scheduler", paths = [], armor = null
      # Hourly, a little after the hour; a run ends within 50 s, and the next goes on.
      schedule = { cron = "7 * * * *", path = "/tasks/meter", seconds = 60 }
      postgres = ["usher_meter"], redis = [], kms = []
      secrets  = ["stripe-api-key"], writes = [], settings = ["catalog"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # One run at a time.
      concurrency = 1
      min         = 0, max = 1, connections = 2
    }
    expire = {
      caller = "scheduler", paths = [], armor = null
      # Daily; a run goes on where the last one stopped. At 04:23, after the backup and rotate.
      schedule = { cron = "23 4 * * *", path = "/tasks/expire", seconds = 310 }
      postgres = ["usher_expire"], redis = ["pools"], kms = []
      secrets  = ["license-key-peppers", "notify-keys", "stripe-api-key"], writes = [], settings = ["catalog"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # One run at a time.
      concurrency = 1
      min         = 0, max = 1, connections = 2
    }
    rotate = {
      # The operator's API keys, to revoke a key or to replace one early, and Cloud Scheduler for what is due.
      caller = "public", paths = ["/v1/signing-keys/*"], armor = "incident"
      # Daily; receipt keys are made 50 h ahead, so two days may be missed. At 03:17, when nobody else's jobs start.
      schedule = { cron = "17 3 * * *", path = "/tasks/rotate", seconds = 60 }
      postgres = ["usher_rotate"], redis = ["budgets"], kms = ["encrypt", "sign", "admin"]
      secrets  = ["api-key-peppers", "seat-token-keys"], writes = ["seat-token-keys"], settings = ["journal"]
      cpu      = "1", memory = "256Mi", always_cpu = false
      # A scheduled run and an operator's revocation may meet, and wait for each other in the database.
      concurrency = 2
      min         = 0, max = 1, connections = 2
    }
  }

  public    = { for name, f in local.functions : name => f if f.caller != "scheduler" }
  scheduled = { for name, f in local.functions : name => f if f.schedule != null }

  # The most connections to PostgreSQL that all instances may hold at once. During a deployment the old revision's
  # instances are still there: twice as many, but for the idle ones, which open none.
  connections = sum([for f in local.functions : ceil(f.max * var.scale) * f.connections * length(f.postgres)])
}

output "functions" {
  description = "The table, for the tests of this folder and for cloudbuild.yaml."
  value       = local.functions
}

output "connections" {
  value = local.connections
}
