environment      = "prod"
domain           = "licences.example.com"
mail_alerts_to   = "alerts@example.com"
warm             = true
highly_available = true
keys_location    = "europe"
journal_location = "eur3"
standby_region   = "europe-west4"
sites            = ["https://app.example.com"]
mail             = { host = "smtp.example.com", username = "usher", from = "Usher <licences@example.com>" }
stripe_catalog = {
  pro        = { currency = "usd", monthly = { seat = { id = "price_prod_pro_monthly", amount = 5800 } }, annual = { seat = { id = "price_prod_pro_annual", amount = 58000 } } }
  enterprise = { by_invoice = true }
}
