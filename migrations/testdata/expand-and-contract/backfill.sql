-- Between the two, as often as it changes rows: a batch at a time, each its own transaction. The trigger does the work.
UPDATE app.products SET updated_at = updated_at
 WHERE code IN (SELECT code FROM app.products WHERE title IS NULL LIMIT 1000 FOR UPDATE SKIP LOCKED);
