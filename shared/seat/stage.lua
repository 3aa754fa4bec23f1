-- Puts a part of the licence's open rows beside its pool, in the order of seats, for a rebuild too large for one script.
-- Fenced like the rebuild itself. Safe to repeat: a part that is there already changes nothing.
-- KEYS  as lib.lua, and then
-- KEYS[11] building  STRING epoch of the rebuild that somebody is about; it ends soon when nobody goes on
-- KEYS[12] staged    HASH   n rows so far, hi seats so far, al nothing staged is reaped before (ms)
-- KEYS[13] to KEYS[16]      leases, sessions, freed and holders of the pool to be
-- ARGV  epoch; incarnation; rows staged before this part; seats covered with this part; ms that the whole rebuild may take;
--       floor ms; clock allowance ms; ms that the staged keys live without a further part;
--       then for each open session of this part
--       id, seat, fence, holder, ms until its borrow ends or 0, eviction's reason or '', evicted by, evicted at (ms)
-- Returns one of
--   ok
--   old      the pool's epoch is not older
--   moved    another incarnation answers, or an earlier part is lost
local BUILDING, STAGED = KEYS[11], KEYS[12]
local NEW_LEASES, NEW_SESSIONS, NEW_FREED, NEW_HOLDERS = KEYS[13], KEYS[14], KEYS[15], KEYS[16]
local old = read_meta()
if old and tonumber(old.ep) >= tonumber(ARGV[1]) then return { 'old' } end
if ARGV[2] ~= incarnation() then return { 'moved' } end
local before, upto = tonumber(ARGV[3]), tonumber(ARGV[4])
local here = redis.call('HMGET', STAGED, 'n', 'hi', 'al')
local n, hi, at_least = tonumber(here[1] or '0'), tonumber(here[2] or '0'), tonumber(here[3])
if hi >= upto then return { 'ok' } end
if n ~= before or (before > 0 and not at_least) then return { 'moved' } end

local now = now_ms(old and old.ck)
if not at_least then
  at_least = reap_nothing_before(now + tonumber(ARGV[5]) + tonumber(ARGV[6]))
end
-- Was the session of the first fence admitted after that of the second?
local function later(a, b)
  local ae, ac = string.match(a, '^(%d+)%.(%d+)$')
  local be, bc = string.match(b, '^(%d+)%.(%d+)$')
  if ae ~= be then return tonumber(ae) > tonumber(be) end
  return tonumber(ac) > tonumber(bc)
end
local taken, leases = {}, {}
for i = 9, #ARGV, 8 do
  local id, seat = ARGV[i], tonumber(ARGV[i + 1])
  local s = { fence = ARGV[i + 2], seat = seat, mark = CONFIRMED, holder = ARGV[i + 3] }
  if ARGV[i + 5] ~= '' then
    s.mark = EVICTED
    note_end(id, now, 'evicted', tonumber(ARGV[i + 7]), ARGV[i + 5], ARGV[i + 6])
  end
  if redis.call('HSETNX', NEW_HOLDERS, s.holder, id) == 0 then
    -- A holder may have two open rows, after a release that was lost half-way: the later session is the holder's own.
    local other = unpack_session(redis.call('HGET', NEW_SESSIONS, redis.call('HGET', NEW_HOLDERS, s.holder)))
    if later(s.fence, other.fence) then redis.call('HSET', NEW_HOLDERS, s.holder, id) end
  end
  redis.call('HSET', NEW_SESSIONS, id, pack_session(s))
  leases[#leases + 1] = string.format('%.0f', math.max(now + tonumber(ARGV[i + 4]) + tonumber(ARGV[7]), at_least))
  leases[#leases + 1] = id
  taken[seat] = true
  n = n + 1
end
if #leases > 0 then redis.call('ZADD', NEW_LEASES, unpack(leases)) end
local holes = {}
for free = hi + 1, upto do
  if not taken[free] then
    holes[#holes + 1] = free
    holes[#holes + 1] = free
  end
end
if #holes > 0 then redis.call('ZADD', NEW_FREED, unpack(holes)) end
redis.call('HSET', STAGED, 'n', n, 'hi', upto, 'al', string.format('%.0f', at_least))
for i = 12, 16 do redis.call('PEXPIRE', KEYS[i], ARGV[8]) end
if redis.call('GET', BUILDING) == ARGV[1] then redis.call('PEXPIRE', BUILDING, ARGV[8]) end
return { 'ok' }
