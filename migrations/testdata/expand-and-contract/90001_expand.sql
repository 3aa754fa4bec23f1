-- +goose Up

-- What a product is called becomes its title. The versions that serve write name, the next one writes title: whoever writes
-- one has written both.
-- safe: narrow title_is_set on app.products: the trigger sets it
SET LOCAL ROLE usher_owner;
ALTER TABLE app.products ADD COLUMN title text;
-- +goose StatementBegin
CREATE FUNCTION app.product_title() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.title := coalesce(NEW.title, NEW.name);
        NEW.name := coalesce(NEW.name, NEW.title);
    ELSIF NEW.title IS DISTINCT FROM OLD.title AND NEW.title IS NOT NULL THEN
        NEW.name := NEW.title;
    ELSE
        NEW.title := NEW.name;
    END IF;
    RETURN NEW;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER title BEFORE INSERT OR UPDATE ON app.products FOR EACH ROW EXECUTE FUNCTION app.product_title();
ALTER TABLE app.products ADD CONSTRAINT title_is_set CHECK (title IS NOT NULL AND char_length(title) BETWEEN 1 AND 200) NOT VALID;
GRANT INSERT, UPDATE (title) ON app.products TO usher_operator;

-- +goose Down
SET LOCAL ROLE usher_owner;
ALTER TABLE app.products DROP COLUMN title;
DROP FUNCTION app.product_title() CASCADE;
