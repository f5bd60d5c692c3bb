-- The background task that archives a kernel's work directory, or last did.
ALTER TABLE kernels ADD COLUMN commit_task TEXT;
