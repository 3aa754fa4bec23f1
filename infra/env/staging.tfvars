environment      = "staging"
domain           = "licences-staging.example.com"
mail_alerts_to   = "alerts@example.com"
warm             = true
highly_available = false
sites            = ["https://app-staging.example.com"]
mail             = { host = "smtp.example.com", username = "usher-staging", from = "Usher <licences@example.com>" }
stripe_catalog = {
  pro        = { currency = "usd", monthly = { seat = { id = "price_staging_pro_monthly", amount = 5800 } }, annual = { seat = { id = "price_staging_pro_annual", amount = 58000 } } }
  enterprise = { by_invoice = true }
}
