-- Marks a session evicted: from now on touch refuses it, but its seat stays taken until its holder heard or its lease
-- ran out, because until then the holder believes. The holder may ask for another seat meanwhile. Safe to repeat.
-- KEYS  as lib.lua
-- ARGV  session; reason; by whom
-- Returns one of
--   ok       epoch                     also when it is gone already
--   unknown  epoch
--   rebuild
local id = ARGV[1]
local m = guard()
if not m then return { 'rebuild' } end
local r = redis.call('HGET', SESSIONS, id)
if not r then
  if redis.call('HEXISTS', ENDS, id) == 1 or redis.call('ZSCORE', DIRTY, id) then return { 'ok', m.ep } end
  return { 'unknown', m.ep }
end
local s = unpack_session(r)
if s.mark ~= EVICTED then
  local now = now_ms(m.ck)
  s.mark = EVICTED
  redis.call('HSET', SESSIONS, id, pack_session(s))
  note_end(id, 'evicted', now, ARGV[2], ARGV[3])
  if redis.call('HGET', HOLDERS, s.holder) == id then redis.call('HDEL', HOLDERS, s.holder) end
end
return { 'ok', m.ep }
