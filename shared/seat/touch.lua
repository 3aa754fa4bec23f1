-- Extends a lease: a heartbeat, or the confirmation of a reservation whose row is committed. Safe to repeat.
-- KEYS  as lib.lua
-- ARGV  session; fence; 'beat' or 'confirm'; when confirming, the sessions whose rows were closed with the opening
-- Returns one of
--   ok       now, lease ms, live, max, overdraft, seat is to drain until (ms) or 0, seat
--   ended    status, at, reason, by
--   unknown  epoch                     the pool has never heard of it, or has forgotten
--   stale    epoch                     another fence holds the session
--   reserved                           a heartbeat for a session that was never confirmed
--   rebuild                            this pool must not answer: it was built under another incarnation. Not even yes: what
--                                      a demoted primary of the same epoch knows of the session would go on ageing
local id = ARGV[1]
local m = guard()
if not m then return { 'rebuild' } end
local r = redis.call('HGET', SESSIONS, id)
if not r then
  local status, at, reason, by = how_ended(id)
  if status then return { 'ended', status, at, reason, by } end
  if redis.call('ZSCORE', DIRTY, id) then return { 'ended', 'lapsed', '0', 'lease_expired', '' } end
  return { 'unknown', m.ep }
end
local s = unpack_session(r)
if s.fence ~= ARGV[2] then return { 'stale', m.ep } end
local now = now_ms(m.ck)
if s.mark == RESERVED and ARGV[3] ~= 'confirm' then return { 'reserved' } end

local score = tonumber(redis.call('ZSCORE', LEASES, id))
local live = count_live(now)
local drain = 0
if s.seat > m.max + m.od and live > m.max + m.od then drain = m.du or 0 end
local state = state_at(m, now)
if score <= now then
  lapse_session(id, s, now, score, m) -- an expired lease never revives
  return { 'ended', how_ended(id) }
end
-- Nobody knows whether the holder hears this, so its seat stays taken until the lease has run out, or the holder gives it back.
if s.mark ~= EVICTED and state ~= 'active' then
  evict_session(id, s, now, state, m.by)
elseif s.mark ~= EVICTED and drain > 0 and drain <= now then
  evict_session(id, s, now, 'seats_reduced', '')
end
if s.mark == EVICTED then return { 'ended', how_ended(id) } end

local ends = now + m.v + m.sg
if s.mark == RESERVED then
  s.mark = CONFIRMED
  redis.call('HSET', SESSIONS, id, pack_session(s))
  redis.call('ZADD', LEASES, 'XX', ends, id) -- nobody believes yet, so a reservation longer than the lease ends with it
else
  redis.call('ZADD', LEASES, 'XX', 'GT', ends, id)
end
for i = 4, #ARGV do redis.call('ZREM', DIRTY, ARGV[i]) end
if now >= m.ck + 1000 then redis.call('HSET', META, 'ck', now) end
return { 'ok', now, m.v, live, m.max, m.od, drain, s.seat }
