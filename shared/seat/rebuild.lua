-- Builds the pool anew from the rows of PostgreSQL, which stage.lua has put beside it. Fenced twice: by the epoch, and by the
-- incarnation that its caller saw before it read PostgreSQL. Tombstones, queue and counters survive. Safe to repeat.
-- KEYS  as stage.lua
-- ARGV  epoch; incarnation; pool version; state; by; max; overdraft; lease ms; clock allowance ms; reservation ms; poll ms;
--       ms until drained sessions are evicted, or -1; ms until the licence stops granting by its dates, or -1; floor ms;
--       rows staged
-- Returns one of
--   ok
--   old      the pool's epoch is not older
--   moved    another incarnation answers, some of what was staged is lost, or staging it took too long
local BUILDING, STAGED = KEYS[11], KEYS[12]
local NEW = { [LEASES] = KEYS[13], [SESSIONS] = KEYS[14], [FREED] = KEYS[15], [HOLDERS] = KEYS[16] }
local old = read_meta()
local inc = incarnation()
if old and tonumber(old.ep) >= tonumber(ARGV[1]) then return { 'old' } end
if ARGV[2] ~= inc then return { 'moved' } end
local rows = tonumber(ARGV[15])
if redis.call('ZCARD', NEW[LEASES]) ~= rows or redis.call('HLEN', NEW[SESSIONS]) ~= rows then return { 'moved' } end
local now = now_ms(old and old.ck)
local staged = redis.call('HMGET', STAGED, 'hi', 'al')
local at_least = reap_nothing_before(now + tonumber(ARGV[14]))
if rows > 0 then
  if not staged[2] or tonumber(staged[2]) < at_least then return { 'moved' } end
  at_least = tonumber(staged[2])
  -- Who is back has not ended; how an evicted session is to end stays noted.
  local back = redis.call('ZINTER', 2, NEW[LEASES], TOMBS)
  for i = 1, #back do
    if unpack_session(redis.call('HGET', NEW[SESSIONS], back[i])).mark ~= EVICTED then
      redis.call('ZREM', TOMBS, back[i])
      redis.call('HDEL', ENDS, back[i])
    end
  end
end
local tickets = redis.call('HGET', META, 'tk') or 0
redis.call('UNLINK', META, LEASES, SESSIONS, FREED, DIRTY, HOLDERS, STAGED)
for pool, new in pairs(NEW) do
  if redis.call('EXISTS', new) == 1 then
    redis.call('RENAME', new, pool)
    redis.call('PERSIST', pool)
  end
end
redis.call('HSET', META, 'inc', inc, 'ep', ARGV[1], 'sv', SCHEMA, 'pv', ARGV[3], 'st', ARGV[4], 'by', ARGV[5], 'max', ARGV[6],
  'od', ARGV[7], 'v', ARGV[8], 'sg', ARGV[9], 'p', ARGV[10], 'pl', ARGV[11], 'fu', string.format('%.0f', at_least),
  'hi', staged[1] or 0, 'fc', 0, 'tk', tickets, 'ck', string.format('%.0f', now))
set_time('du', now, ARGV[12])
set_time('ex', now, ARGV[13])
if redis.call('GET', BUILDING) == ARGV[1] then redis.call('DEL', BUILDING) end
return { 'ok' }
