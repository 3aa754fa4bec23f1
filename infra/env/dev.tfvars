environment      = "dev"
domain           = "licences-dev.example.com"
mail_alerts_to   = "alerts@example.com"
warm             = false
highly_available = false
sites            = ["https://app-dev.example.com"]
mail             = { host = "smtp.example.com", username = "usher-dev", from = "Usher <licences@example.com>" }
stripe_catalog = {
  pro        = { currency = "usd", monthly = { seat = { id = "price_dev_pro_monthly", amount = 5800 } }, annual = { seat = { id = "price_dev_pro_annual", amount = 58000 } } }
  enterprise = { by_invoice = true }
}
