environment      = "dev"
domain           = "licences-dev.example.com"
mail_alerts_to   = "alerts@example.com"
warm             = false
highly_available = false
