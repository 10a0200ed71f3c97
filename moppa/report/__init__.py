"""From records to what people read: tables are computed from records and never edited."""
