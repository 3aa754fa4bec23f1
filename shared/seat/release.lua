-- Frees the seat of a session on its holder's word, or gives back a reservation. Safe to repeat.
-- KEYS  as lib.lua
-- ARGV  session; fence; 'reserved' to give back a reservation only
-- Returns one of
--   ended    status, at, reason, by    by this call or before
--   held                               it is no reservation any more: somebody was told yes, and it stays
--   unknown
--   stale                              another fence holds the session
--   rebuild                            the pool was built under another incarnation and does not know the session
local id = ARGV[1]
local m = read_meta()
local r = redis.call('HGET', SESSIONS, id)
if not m or not r then
  local status, at, reason, by = how_ended(id)
  if status then return { 'ended', status, at, reason, by } end
  if not m or m.inc ~= incarnation() then return { 'rebuild' } end
  return { 'unknown' }
end
local s = unpack_session(r)
if s.fence ~= ARGV[2] then
  if m.inc ~= incarnation() then return { 'rebuild' } end
  return { 'stale' }
end
local now = now_ms(m.ck)
local score = tonumber(redis.call('ZSCORE', LEASES, id))
if score <= now then
  lapse_session(id, s, now, score, m)
elseif ARGV[3] == 'reserved' and s.mark ~= RESERVED then
  return { 'held' }
else
  free_session(id, s, now, 'released', now, 'released', 'holder')
end
return { 'ended', how_ended(id) }
