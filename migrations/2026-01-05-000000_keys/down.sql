DROP TABLE secrets;
DROP TABLE keys;
