-- Reserves a seat, or says why not. Safe to repeat with the same session id.
-- KEYS  as lib.lua and demand.lua
-- ARGV  session id; holder; '1' to wait in the queue when full; '1' while nobody is admitted who has no seat
-- Returns one of
--   rebuild
--   frozen
--   refused  state
--   seat     session, fence, seat, epoch, pool version, then, for a reservation, each session the seat is taken from:
--            id, status, at, reason, by
--   full     live, max, overdraft, queue length, ms until the earliest lease ends
--   queued   position from 1, queue length, poll ms, mean ms between freed seats or -1, live, max, overdraft
local m = guard()
if not m then return { 'rebuild' } end
local now = now_ms(m.ck)
local state = state_at(m, now)
if state ~= 'active' then return { 'refused', state } end
redis.call('HSET', META, 'ck', now)
local id, holder, wait = ARGV[1], ARGV[2], ARGV[3] == '1'

local function seat_answer(sid, s)
  local answer = { 'seat', sid, s.fence, s.seat, m.ep, m.pv }
  if s.mark == RESERVED then
    local from = redis.call('ZRANGEBYSCORE', DIRTY, s.seat, s.seat)
    for i = 1, #from do
      local status, at, reason, by = how_ended(from[i])
      local n = #answer
      answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4], answer[n + 5] =
        from[i], status or 'lapsed', at or string.format('%.0f', now), reason or 'lease_expired', by or ''
    end
  end
  return answer
end

-- The holder's own session first: it may have expired beyond what one reaping reaches. A holder that asks for a seat does not
-- believe in one that it was evicted from.
local own = redis.call('HGET', HOLDERS, holder)
if own then
  local s = unpack_session(redis.call('HGET', SESSIONS, own))
  local score = tonumber(redis.call('ZSCORE', LEASES, own))
  if score <= now then
    lapse_session(own, s, now, score, m)
    own = false
  elseif s.mark == EVICTED then
    free_session(own, s, now)
    own = false
  end
end
reap(now, m)

local r = redis.call('HGET', SESSIONS, id)
if r then return seat_answer(id, unpack_session(r)) end
if own then
  redis.call('ZREM', QUEUE, holder)
  redis.call('ZREM', POLLS, holder)
  return seat_answer(own, unpack_session(redis.call('HGET', SESSIONS, own)))
end

if ARGV[4] == '1' then return { 'frozen' } end
local taken = redis.call('ZCARD', LEASES)
local free = m.max + m.od - taken
local rank = redis.call('ZRANK', QUEUE, holder)
if not ((rank or redis.call('ZCARD', QUEUE)) < free) then
  note_denied(now, holder, taken)
  if not wait then
    local first = redis.call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')
    return { 'full', taken, m.max, m.od, redis.call('ZCARD', QUEUE), math.max(0, (tonumber(first[2]) or now) - now) }
  end
  if not rank then redis.call('ZADD', QUEUE, redis.call('HINCRBY', META, 'tk', 1), holder) end
  redis.call('ZADD', POLLS, now + 3 * m.pl, holder)
  return { 'queued', redis.call('ZRANK', QUEUE, holder) + 1, redis.call('ZCARD', QUEUE), m.pl,
    tonumber(redis.call('HGET', META, 'gp') or '-1'), taken, m.max, m.od }
end
if rank then
  redis.call('ZREM', QUEUE, holder)
  redis.call('ZREM', POLLS, holder)
end

local lowest = redis.call('ZPOPMIN', FREED)
local seat = tonumber(lowest[1]) or redis.call('HINCRBY', META, 'hi', 1)
local s = { fence = m.ep .. '.' .. redis.call('HINCRBY', META, 'fc', 1), seat = seat, mark = RESERVED, holder = holder }
redis.call('ZADD', LEASES, now + m.p, id)
redis.call('HSET', SESSIONS, id, pack_session(s))
redis.call('HSET', HOLDERS, holder, id)
note_seated(now, holder, taken + 1)
return seat_answer(id, s)
