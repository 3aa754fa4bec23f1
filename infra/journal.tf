# The journal: what happened, kept outside the database that it watches. Its entries are created and read; nobody of ours may
# change or delete one.
resource "google_firestore_database" "journal" {
  name                              = "usher-journal"
  location_id                       = coalesce(var.journal_location, var.region)
  type                              = "FIRESTORE_NATIVE"
  delete_protection_state           = "DELETE_PROTECTION_ENABLED"
  point_in_time_recovery_enablement = "POINT_IN_TIME_RECOVERY_ENABLED"
  deletion_policy                   = "ABANDON"
  depends_on                        = [google_project_service.needed]
}

# Checkpoints come each minute, and say themselves when nothing is left that they could be compared with (shared/journal). Nothing
# else has an end: the newest setting of the switches counts however old it is, and incidents are few.
resource "google_firestore_field" "expires" {
  database   = google_firestore_database.journal.name
  collection = "checkpoints" # of every chain
  field      = "expires"
  ttl_config {}
  index_config {} # nobody asks by it
}

# What is not in these roles is the point: datastore.entities.update and datastore.entities.delete.
resource "google_project_iam_custom_role" "journal" {
  for_each = {
    journal = ["datastore.databases.get", "datastore.entities.get", "datastore.entities.list"]
    entries = ["datastore.databases.get", "datastore.entities.get", "datastore.entities.list", "datastore.entities.create"]
  }
  role_id     = each.key == "journal" ? "usherJournalReader" : "usherJournalWriter"
  title       = each.key == "journal" ? "Reads the switches in Usher's journal" : "Reads Usher's journal and creates entries"
  permissions = each.value
}

# Firestore knows roles of a project alone; the condition keeps them to this one database.
resource "google_project_iam_member" "journal" {
  for_each = merge([for name, f in local.functions : { for door in setintersection(f.settings, ["journal", "entries"]) : name => door }]...)
  project  = var.project
  role     = "projects/${var.project}/roles/${google_project_iam_custom_role.journal[each.value].role_id}"
  member   = google_service_account.function[each.key].member
  condition {
    title      = "journal"
    expression = "resource.name == \"projects/${var.project}/databases/${google_firestore_database.journal.name}\""
  }
}
