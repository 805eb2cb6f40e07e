-- Runs in one transaction, under live lanes and producers; it only changes what a column says of itself.

-- step: completed tasks have a version too
COMMENT ON COLUMN tasks.handler_version IS
    'Version of the handler of its newest attempt. NULL: not known, or the attempt began a moment ago.'
