-- Extends a lease: a heartbeat, or the confirmation of a reservation whose row is committed. Safe to repeat.
-- KEYS  as lib.lua
-- ARGV  session; fence; 'beat' or 'confirm'; when confirming, the sessions whose rows were closed with the opening
-- Returns one of
--   ok       now, lease ms, live, max, overdraft, seat is to drain until (ms) or 0, seat
--   ended    status, at, reason, by
--   unknown  epoch                     the pool has never heard of it, or has forgotten
--   stale    epoch                     another fence holds the session
--   reserved                           a heartbeat for a session that was never confirmed
--   rebuild                            this pool must not say no: it was built under another incarnation
local id = ARGV[1]
local m = read_meta()
local function no(...)
  if not m or m.inc ~= incarnation() then return { 'rebuild' } end
  return { ... }
end
local r = redis.call('HGET', SESSIONS, id)
if not m or not r then
  local status, at, reason, by = how_ended(id)
  if status then return no('ended', status, at, reason, by) end
  if redis.call('ZSCORE', DIRTY, id) then return no('ended', 'lapsed', '0', 'lease_expired', '') end
  return no('unknown', m and m.ep or '0')
end
local s = unpack_session(r)
if s.fence ~= ARGV[2] then return no('stale', m.ep) end
local now = now_ms(m.ck)
if s.mark == RESERVED and ARGV[3] ~= 'confirm' then return no('reserved') end

-- From here on a refusal is final, so it needs the right incarnation before it changes anything.
local score = tonumber(redis.call('ZSCORE', LEASES, id))
local live = count_live(now)
local drain = 0
if s.seat > m.max + m.od and live > m.max + m.od then drain = m.du or 0 end
local state = state_at(m, now)
if score <= now or s.mark == EVICTED or state ~= 'active' or (drain > 0 and drain <= now) then
  if m.inc ~= incarnation() then return { 'rebuild' } end
  if s.mark == EVICTED then
    free_session(id, s, now) -- its holder hears it now
  elseif score <= now then
    lapse_session(id, s, now, score, m) -- an expired lease never revives
  elseif state ~= 'active' then
    free_session(id, s, now, 'evicted', now, state, m.by)
  else
    free_session(id, s, now, 'evicted', now, 'seats_reduced', '')
  end
  return { 'ended', how_ended(id) }
end

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
