-- Marks sessions evicted: from now on touch refuses them, but their seats stay taken until each lease ran out, or its holder
-- gave the seat back or asked for another, because until then the holder may not have heard, and believes. Safe to repeat.
-- KEYS  as lib.lua
-- ARGV  for each session: session; reason; by whom
-- Returns one of
--   ok       epoch                     also for those that are gone already
--   unknown  epoch                     one of them the pool has never heard of, or has forgotten
--   rebuild
local m = guard()
if not m then return { 'rebuild' } end
local now = now_ms(m.ck)
local answer = 'ok'
for i = 1, #ARGV, 3 do
  local id = ARGV[i]
  local r = redis.call('HGET', SESSIONS, id)
  if r then
    local s = unpack_session(r)
    if s.mark ~= EVICTED then evict_session(id, s, now, ARGV[i + 1], ARGV[i + 2]) end
  elseif redis.call('HEXISTS', ENDS, id) == 0 and not redis.call('ZSCORE', DIRTY, id) then
    answer = 'unknown'
  end
end
return { answer, m.ep }
