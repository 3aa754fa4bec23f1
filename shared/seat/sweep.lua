-- Tidies a pool and says what its rows should be compared with. Safe to repeat.
-- KEYS  as lib.lua
-- ARGV  how many dirty sessions to answer at most; how many acknowledged sessions follow; these (their rows are closed);
--       then sessions whose rows were open when the caller read PostgreSQL
-- Returns one of
--   ok       epoch, pool version, state, reaped, sessions here, ms by which the clock went back, number of unknown sessions,
--            these (open rows that the pool neither has nor remembers leaving), then the dirty: id, status, at, reason, by
--   rebuild
local m = guard()
local acks = tonumber(ARGV[2])
for i = 3, 2 + acks do redis.call('ZREM', DIRTY, ARGV[i]) end
if not m then return { 'rebuild' } end
local now, back = now_ms(m.ck)
redis.call('HSET', META, 'ck', now)
local reaped = reap(now, m)
local answer = { 'ok', m.ep, m.pv, state_at(m, now), reaped, redis.call('ZCARD', LEASES), back, 0 }
local n = #answer
for i = 3 + acks, #ARGV do
  if redis.call('HEXISTS', SESSIONS, ARGV[i]) == 0 and not redis.call('ZSCORE', DIRTY, ARGV[i]) then
    n = n + 1
    answer[n] = ARGV[i]
    answer[8] = answer[8] + 1
  end
end
local dirty = redis.call('ZRANGE', DIRTY, 0, tonumber(ARGV[1]) - 1)
for i = 1, #dirty do
  local status, at, reason, by = how_ended(dirty[i])
  answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4], answer[n + 5] =
    dirty[i], status or 'lapsed', at or string.format('%.0f', now), reason or 'lease_expired', by or ''
  n = n + 5
end
return answer
