BEGIN TRANSACTION;
CREATE TABLE stem_revocation_versions (
            namespace TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "stem_revocation_versions" VALUES('other',1795899664858024);
INSERT INTO "stem_revocation_versions" VALUES('shop',1795899664865971);
CREATE TABLE stem_revocations (
            namespace TEXT NOT NULL, task_id TEXT NOT NULL, version INTEGER NOT NULL, issued_us INTEGER NOT NULL,
            terminate INTEGER NOT NULL, reason TEXT, requested_by TEXT, expires_us INTEGER, proofs TEXT,
            PRIMARY KEY (namespace, task_id)) WITHOUT ROWID;
INSERT INTO "stem_revocations" VALUES('other','theirs',1795899664858024,1795899664858023,0,NULL,NULL,NULL,NULL);
INSERT INTO "stem_revocations" VALUES('shop','ending',1795899664842049,1795899664842047,0,NULL,NULL,3372699664842047,NULL);
INSERT INTO "stem_revocations" VALUES('shop','flower-0',1795899664862042,1795899664862041,0,'revoked through Celery',NULL,NULL,NULL);
INSERT INTO "stem_revocations" VALUES('shop','flower-1',1795899664865971,1795899664865970,1,'revoked through Celery',NULL,NULL,NULL);
INSERT INTO "stem_revocations" VALUES('shop','näme/🦑',1795899664842050,1795899664842047,1,'wéil
"q" \','ann@host',NULL,NULL);
INSERT INTO "stem_revocations" VALUES('shop','plain',1795899664850644,1795899664850643,1,NULL,NULL,NULL,NULL);
INSERT INTO "stem_revocations" VALUES('shop','signed',1795899664845071,1795899664845070,1,'bad deploy',NULL,NULL,'["{\"t\":1,\"e\":null,\"x\":true,\"r\":null,\"q\":null,\"s\":\"hmac-sha256:ops:AA==\"}"]');
CREATE UNIQUE INDEX stem_revocations_version ON stem_revocations (namespace, version);
CREATE INDEX stem_revocations_expiry ON stem_revocations (namespace, expires_us)
            WHERE expires_us IS NOT NULL;
COMMIT;
