-- Times are Unix seconds. A folded name is the one that is compared; `name` is as it was written.

CREATE TABLE clients (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    identity    BLOB    NOT NULL UNIQUE CHECK (length(identity) = 32),
    name        TEXT    NOT NULL,
    name_folded TEXT    NOT NULL,
    status      TEXT    NOT NULL CHECK (status IN ('active', 'revoked')),
    permissions TEXT    NOT NULL,
    version     TEXT,
    system      TEXT,
    last_seen   INTEGER,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;

-- A revoked client keeps its row, so that its key stays out, but gives up its name.
CREATE UNIQUE INDEX clients_active_name ON clients (name_folded) WHERE status = 'active';
CREATE INDEX clients_name ON clients (name_folded);

CREATE TABLE tickets (
    id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 8),
    public_key  BLOB    NOT NULL CHECK (length(public_key) = 32),
    permissions TEXT    NOT NULL,
    name        TEXT,
    uses        INTEGER NOT NULL CHECK (uses > 0),
    uses_left   INTEGER NOT NULL CHECK (uses_left BETWEEN 0 AND uses),
    expires_at  INTEGER NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;

-- Who used a ticket: the name is the one that the client had then.
CREATE TABLE redemptions (
    ticket_id   BLOB    NOT NULL REFERENCES tickets (id) ON DELETE CASCADE,
    client_id   INTEGER NOT NULL REFERENCES clients (id) ON DELETE CASCADE,
    name        TEXT    NOT NULL,
    redeemed_at INTEGER NOT NULL,
    PRIMARY KEY (ticket_id, client_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 8),
    hash        BLOB    NOT NULL CHECK (length(hash) = 32),
    name        TEXT    NOT NULL,
    name_folded TEXT    NOT NULL,
    expires_at  INTEGER,
    created_at  INTEGER NOT NULL,
    revoked_at  INTEGER
) STRICT;

CREATE UNIQUE INDEX tokens_valid_name ON tokens (name_folded) WHERE revoked_at IS NULL;
