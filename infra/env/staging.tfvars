environment      = "staging"
domain           = "licences-staging.example.com"
mail_alerts_to   = "alerts@example.com"
warm             = true
highly_available = false
