-- Builds the pool anew from the rows of PostgreSQL. Fenced twice: by the epoch, and by the incarnation that its caller saw
-- before it read PostgreSQL. Tombstones, queue and counters survive. Safe to repeat.
-- KEYS  as lib.lua
-- ARGV  epoch; incarnation; pool version; state; by; max; overdraft; lease ms; clock allowance ms; reservation ms; poll ms;
--       ms until drained sessions are evicted, or -1; ms until the licence stops granting by its dates, or -1; floor ms;
--       then for each open session
--       id, seat, fence, holder, ms until its borrow ends or 0, eviction's reason or '', evicted by, evicted at (ms)
-- Returns one of
--   ok
--   old      the pool's epoch is not older
--   moved    another incarnation answers
local ep = tonumber(ARGV[1])
local old = read_meta()
local inc = incarnation()
if old and tonumber(old.ep) >= ep then return { 'old' } end
if ARGV[2] ~= inc then return { 'moved' } end
local now = now_ms(old and old.ck)

-- Every belief alive now ends before the floor. A pool that came back from a replica may not have heard that leases became
-- shorter, and have renewed some at its own, longer length before anybody noticed: they count, in later rebuilds too.
local keep = redis.call('HMGET', META, 'fu', 'tk')
local longer = old and math.max(0, old.v - tonumber(ARGV[8])) or 0
local at_least = math.max(now + tonumber(ARGV[14]) + longer, tonumber(keep[1] or '0'))

redis.call('DEL', META, LEASES, SESSIONS, FREED, DIRTY, HOLDERS)
local hi, taken = 0, {}
for i = 15, #ARGV, 8 do
  local id, seat = ARGV[i], tonumber(ARGV[i + 1])
  local s = { fence = ARGV[i + 2], seat = seat, mark = CONFIRMED, holder = ARGV[i + 3] }
  local at = now + tonumber(ARGV[i + 4]) + tonumber(ARGV[9])
  if ARGV[i + 5] ~= '' then
    s.mark = EVICTED
    note_end(id, 'evicted', tonumber(ARGV[i + 7]), ARGV[i + 5], ARGV[i + 6])
  else
    redis.call('HDEL', ENDS, id)
    redis.call('HSET', HOLDERS, s.holder, id)
  end
  redis.call('ZREM', TOMBS, id)
  redis.call('ZADD', LEASES, math.max(at, at_least), id)
  redis.call('HSET', SESSIONS, id, pack_session(s))
  taken[seat] = true
  if seat > hi then hi = seat end
end
for i = 1, hi do
  if not taken[i] then redis.call('ZADD', FREED, i, i) end
end
redis.call('HSET', META, 'inc', inc, 'ep', ARGV[1], 'sv', SCHEMA, 'pv', ARGV[3], 'st', ARGV[4], 'by', ARGV[5], 'max', ARGV[6],
  'od', ARGV[7], 'v', ARGV[8], 'sg', ARGV[9], 'p', ARGV[10], 'pl', ARGV[11], 'fu', at_least, 'hi', hi, 'fc', 0,
  'tk', keep[2] or 0, 'ck', now)
set_time('du', now, ARGV[12])
set_time('ex', now, ARGV[13])
return { 'ok' }
