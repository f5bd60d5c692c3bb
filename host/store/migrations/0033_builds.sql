-- The session builds images: where an agent allows it, its kernels may use the engine that they run in. Never what a
-- user asks for.
ALTER TABLE sessions ADD COLUMN builds_images BOOLEAN NOT NULL DEFAULT FALSE;
