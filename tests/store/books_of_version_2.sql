-- Rows as tallyd of version 2 wrote them at 2026-11-21T12:00:00Z: one customer on one plan since 31 August.

INSERT INTO "customers" VALUES(1,'3e9030b0-d662-50ef-b20f-8bf58ba798a2','acme',NULL,1795262400000000,NULL);

INSERT INTO "credit_models" VALUES('t','b30b13aa-73e4-59c4-9adf-9d9eccbf872c','catalog','{"key":"t","name":null,"denomination":"CREDITS","currency":null,"charge":"units","hard_limit":false,"features":["chat"],"only_named":false,"precision":null,"burn_order":"expiry","draw_priority":0,"expires_after_days":null,"rollover":{"policy":"NONE","cap":null,"percentage":null,"expires_after_days":null,"max_count":null},"overage":null,"on_shortfall":"bill","low_at":null,"top_up":null,"recurring":null}','{}',1795262400000000,1795262400000000,NULL);

INSERT INTO "features" VALUES('api','07c4bad1-9f09-50d1-b236-0c10e4fab849',NULL,NULL,1795262400000000);
INSERT INTO "features" VALUES('chat','ee4b65e4-aba6-5525-a620-334cb2b26a53',NULL,NULL,1795262400000000);

INSERT INTO "plan_versions" VALUES('pro',1,'{"key":"pro","name":"Pro","description":null,"currency":"USD","price_amount":"30.00","interval_months":1,"billing_timing":"IN_ADVANCE","features":[{"feature":"api","meter":null,"pricing":{"model":"usage","price_per_unit":"0.10","usage_unit_type":"call"},"cost":null,"credit_model":null,"units_per_credit":null},{"feature":"chat","meter":null,"pricing":{"model":"usage","price_per_unit":1,"usage_unit_type":"call"},"cost":null,"credit_model":"t","units_per_credit":"1"}],"credits":[{"credit_model":"t","amount":"10","expires_after_months":null,"draw_priority":null,"draw_limit":null,"grant_priority":0}]}','[]',1795262400000000);

INSERT INTO "subscriptions" VALUES(1,'7958f685-24ba-4b1e-b256-84a0e6ebdbb8',1,'pro',1,1788134400000000,NULL,31,1,1795262400000000);

INSERT INTO "events" VALUES(4,1,4,'','k0','tanso','x','api',1789430400000000,1795262400000000,1,'5',NULL,NULL,NULL,'0.50','plan','USD',NULL,0,NULL,NULL,'{"eventName":"x","occurredAt":"2026-09-15T00:00:00Z","featureKey":"api","customerReferenceId":"acme","usageUnits":5}',X'D7E7694119B4C1EB03991276CB2237F39E04EBAFB8F0ACD7ADF7CDE206E86ECA');
INSERT INTO "events" VALUES(5,1,5,'','k1','tanso','x','api',1792022400000000,1795262400000000,1,'7',NULL,NULL,NULL,'0.70','plan','USD',NULL,0,NULL,NULL,'{"eventName":"x","occurredAt":"2026-10-15T00:00:00Z","featureKey":"api","customerReferenceId":"acme","usageUnits":7}',X'0C1065EC9B903BE89D53B7E715C2FAFE5C988C97841D127B85542BA64664A0D2');
INSERT INTO "events" VALUES(6,1,6,'','k2','tanso','x','api',1793664000000000,1795262400000000,1,'11',NULL,NULL,NULL,'1.10','plan','USD',NULL,0,NULL,NULL,'{"eventName":"x","occurredAt":"2026-11-03T00:00:00Z","featureKey":"api","customerReferenceId":"acme","usageUnits":11}',X'B2D5F43F3AE3DC11E02FA5B05AF94A181D5F9DAF037A14FFF2D22882CFA6944F');
INSERT INTO "events" VALUES(7,1,7,'','k3','tanso','x','chat',1793750400000000,1795262400000000,1,'13',NULL,NULL,NULL,'3','plan','USD',NULL,0,NULL,NULL,'{"eventName":"x","occurredAt":"2026-11-04T00:00:00Z","featureKey":"chat","customerReferenceId":"acme","usageUnits":13}',X'61C2960762C9E5276B10C708D1888A52BA931ADA5A2403F6278DF706659B6BC8');
INSERT INTO "events" VALUES(10,1,9,'','k4','tanso','x','chat',1795219200000000,1795262400000000,1,'2',NULL,NULL,NULL,'2','plan','USD',NULL,0,NULL,NULL,'{"eventName":"x","occurredAt":"2026-11-21T00:00:00Z","featureKey":"chat","customerReferenceId":"acme","usageUnits":2}',X'7CAF5F7CFE9D33C7D8151CD79B3B83DD57415EE66D562D6C45B21D5AFC1A4CCC');

INSERT INTO "charges" VALUES(4,1,'api',1,1788134400000000,'pro',1,'0','5','{}','{"units":"5"}','0.50','USD',NULL);
INSERT INTO "charges" VALUES(5,1,'api',1,1790726400000000,'pro',1,'0','7','{}','{"units":"7"}','0.70','USD',NULL);
INSERT INTO "charges" VALUES(6,1,'api',1,1793404800000000,'pro',1,'0','11','{}','{"units":"11"}','1.10','USD',NULL);
INSERT INTO "charges" VALUES(7,1,'chat',1,1793404800000000,'pro',1,'0','13','{}','{"units":"3"}','3','USD',NULL);
INSERT INTO "charges" VALUES(10,1,'chat',1,1793404800000000,'pro',1,'13','2','{"units":"3"}','{"units":"2"}','2','USD',NULL);

INSERT INTO "counters" VALUES(1,1,'api',1788134400000000,'5','{"units":"5"}','0.50','0',1,0,1789430400000000);
INSERT INTO "counters" VALUES(1,1,'api',1790726400000000,'7','{"units":"7"}','0.70','0',1,0,1792022400000000);
INSERT INTO "counters" VALUES(1,1,'api',1793404800000000,'11','{"units":"11"}','1.10','0',1,0,1793664000000000);
INSERT INTO "counters" VALUES(1,1,'chat',1793404800000000,'15','{"units":"5"}','5','0',2,0,1795219200000000);

INSERT INTO "rollups" VALUES(1789430400000000,1,'api','','','x','USD',1,'5','0','0','0','0.50',0);
INSERT INTO "rollups" VALUES(1792022400000000,1,'api','','','x','USD',1,'7','0','0','0','0.70',0);
INSERT INTO "rollups" VALUES(1793664000000000,1,'api','','','x','USD',1,'11','0','0','0','1.10',0);
INSERT INTO "rollups" VALUES(1793750400000000,1,'chat','','','x','USD',1,'13','0','0','0','3',0);
INSERT INTO "rollups" VALUES(1795219200000000,1,'chat','','','x','USD',1,'2','0','0','0','2',0);

INSERT INTO "credit_entries" VALUES(1,1,1,'POOL_OPENED','manual',1,NULL,NULL,NULL,NULL,NULL,1795262400000000,1795262400000000,'[]',NULL,NULL,NULL,NULL,'',NULL,'{"name":"t","model":{"key":"t","name":null,"denomination":"CREDITS","currency":null,"charge":"units","hard_limit":false,"features":["chat"],"only_named":false,"precision":null,"burn_order":"expiry","draw_priority":0,"expires_after_days":null,"rollover":{"policy":"NONE","cap":null,"percentage":null,"expires_after_days":null,"max_count":null},"overage":null,"on_shortfall":"bill","low_at":null,"top_up":null,"recurring":null},"archived":false}',X'3FC7C6DF5BD990293F2279367E0C3221132CD75AF4EF38B43432871E953C9849');
INSERT INTO "credit_entries" VALUES(2,1,2,'POOL_LINKED','manual',1,NULL,NULL,NULL,NULL,NULL,1795262400000000,1795262400000000,'[]',NULL,NULL,NULL,NULL,'',NULL,'{"subscription":1,"priority":0,"draw_limit":null,"allocated_in":-1}',X'67E8458270819CA73B71F09E5420EF7963F7B9CD1BFE8094A0EB0C38FEFA3713');
INSERT INTO "credit_entries" VALUES(3,1,3,'GRANT','plan',1,'10','0','10','0','0',1795262400000000,1795262400000000,'[[3,"10"]]',NULL,NULL,NULL,NULL,'',NULL,'{"type":"PLAN_INCLUDED","expires_at":1795996800000000,"subscription":1,"period_start":1793404800000000}',X'FDAF644D0529FBD51B44191EFFD22C4A249F314D493F3A20DD39BE689755A5FA');
INSERT INTO "credit_entries" VALUES(8,1,8,'DEDUCTION','event',1,'-10','10','0','0','0',1795262400000000,1795262400000000,'[[3,"-10"]]',7,'chat',NULL,NULL,'',NULL,'{"charge":"13","units_per_credit":"1","covered":{"units":"10"}}',X'60B6CFD0EEB735F234DB78BED43068EB52729395163DC8C9551C31A0E8B6047E');

INSERT INTO "pools" VALUES(1,1,'t','{"key":"t","name":null,"denomination":"CREDITS","currency":null,"charge":"units","hard_limit":false,"features":["chat"],"only_named":false,"precision":null,"burn_order":"expiry","draw_priority":0,"expires_after_days":null,"rollover":{"policy":"NONE","cap":null,"percentage":null,"expires_after_days":null,"max_count":null},"overage":null,"on_shortfall":"bill","low_at":null,"top_up":null,"recurring":null}','t','0','0','0','0','10','10','0','0',0,0,1795262400000000,1795262400000000,0,0,0);

INSERT INTO "grants" VALUES(3,1,1,'10','0','0',1795262400000000,'{"type":"PLAN_INCLUDED","expires_at":1795996800000000,"subscription":1,"period_start":1793404800000000}');

INSERT INTO "pool_links" VALUES(1,1,1,0,NULL,'10',1793404800000000,1793404800000000);

INSERT INTO "credit_dues" VALUES(1,1795996800000000);

INSERT INTO "outbox" VALUES(9,1,'credit.depleted',1795262400000000,'{"balance":"0","creditModel":"t","denomination":"CREDITS","poolId":"7a11d000-0000-8000-8000-000000000001","threshold":null}');

INSERT INTO "ledgers" VALUES(1,9,X'7CAF5F7CFE9D33C7D8151CD79B3B83DD57415EE66D562D6C45B21D5AFC1A4CCC');
