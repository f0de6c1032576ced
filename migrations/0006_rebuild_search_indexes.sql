-- HNSW indexes have more neighbours than when those that exist were built. An index that is not listed here is dropped and
-- built anew in the background; until then its gallery is searched exactly.
delete from search_indexes;
