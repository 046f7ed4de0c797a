-- A public port and its holder. A Unix socket is an address with port 0, which no port has; `released_at` is NULL while
-- somebody serves it.

CREATE TABLE leases (
    protocol     TEXT    NOT NULL CHECK (protocol IN ('tcp', 'udp')),
    address      TEXT    NOT NULL,
    port         INTEGER NOT NULL CHECK (port BETWEEN 0 AND 65535),
    identity     BLOB    NOT NULL CHECK (length(identity) = 32),
    name         TEXT    NOT NULL,
    name_folded  TEXT    NOT NULL,
    tunnel_group TEXT,
    released_at  INTEGER,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    PRIMARY KEY (protocol, address, port)
) STRICT, WITHOUT ROWID;

CREATE INDEX leases_identity ON leases (identity);
