environment      = "prod"
domain           = "licences.example.com"
mail_alerts_to   = "alerts@example.com"
warm             = true
highly_available = true
