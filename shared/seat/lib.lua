-- Prepended to every script. All keys of a licence carry its hash tag, so that one script sees all of them.
--
-- KEYS[1]  meta     HASH  inc incarnation, ep epoch, sv schema version, pv pool version, st state, by who set it,
--                         max seats, od overdraft, v lease, sg clock allowance, p reservation, pl poll (ms),
--                         fu nothing restored is reaped before (ms), du drain until (ms), ex grants until (ms), hi highest seat used,
--                         fc fence counter, tk ticket counter, ck highest clock seen (ms), lf last freed (ms), gp mean gap
--                         between frees (ms); du and ex are missing when there is no such time
-- KEYS[2]  leases   ZSET  session → reap at (ms)
-- KEYS[3]  sessions HASH  session → fence|seat|mark|holder; mark 0 reserved, 1 confirmed, 2 evicted
-- KEYS[4]  freed    ZSET  seat numbers up to hi that nobody sits on, by number
-- KEYS[5]  dirty    ZSET  session → seat: gone from here, its row may still be open
-- KEYS[6]  holders  HASH  holder → session
-- KEYS[7]  tombs    ZSET  session → forget at (ms)
-- KEYS[8]  ends     HASH  session → status US at(ms) US reason US by   (US = 0x1f, which no input may hold)
-- KEYS[9]  queue    ZSET  waiting holder → ticket
-- KEYS[10] polls    ZSET  waiting holder → loses its place at (ms)
local META, LEASES, SESSIONS, FREED, DIRTY, HOLDERS, TOMBS, ENDS, QUEUE, POLLS =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local RESERVED, CONFIRMED, EVICTED = '0', '1', '2'
local TOMB_MS = 86400000
local TOMBS_MOST = 10000
local REAP_MOST = 128
local US = '\31'
local SCHEMA = '2'

-- Changes at every promotion of a replica and every restart of a primary.
local function incarnation()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or 'none'
end

-- The store's clock in ms. It never goes back: ck is the highest value the pool has seen.
local function now_ms(ck)
  local t = redis.call('TIME')
  local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
  if ck and ck > now then return ck, ck - now end
  return now, 0
end

local function read_meta()
  local f = redis.call('HMGET', META, 'inc', 'ep', 'sv', 'pv', 'st', 'by', 'max', 'od', 'v', 'sg', 'p', 'pl', 'du', 'ex', 'ck')
  if not f[2] or f[3] ~= SCHEMA then return nil end
  return { inc = f[1], ep = f[2], pv = tonumber(f[4]), st = f[5], by = f[6], max = tonumber(f[7]), od = tonumber(f[8]),
    v = tonumber(f[9]), sg = tonumber(f[10]), p = tonumber(f[11]), pl = tonumber(f[12]), du = tonumber(f[13]),
    ex = tonumber(f[14]), ck = tonumber(f[15]) }
end

-- The pool, when it was built under the incarnation that answers; otherwise nil: rebuild.
local function guard()
  local m = read_meta()
  if not m or m.inc ~= incarnation() then return nil end
  return m
end

-- active when the pool grants seats at that moment, else why not. A licence expires without anybody telling its pool.
local function state_at(m, at)
  if m.st == 'active' and m.ex and m.ex <= at then return 'license_expired' end
  return m.st
end

local function unpack_session(r)
  local fence, seat, mark, holder = string.match(r, '^([^|]*)|(%d+)|(%d)|(.*)$')
  return { fence = fence, seat = tonumber(seat), mark = mark, holder = holder }
end

local function pack_session(s)
  return s.fence .. '|' .. s.seat .. '|' .. s.mark .. '|' .. s.holder
end

-- Every note has its tombstone.
local function note_end(id, now, status, at, reason, by)
  redis.call('HSET', ENDS, id, status .. US .. string.format('%.0f', at) .. US .. reason .. US .. by)
  redis.call('ZADD', TOMBS, string.format('%.0f', now + TOMB_MS), id)
end

-- How a session ended: status, at, reason, by as strings; nil when nothing is remembered.
local function how_ended(id)
  local e = redis.call('HGET', ENDS, id)
  if not e then return nil end
  return string.match(e, '^([^' .. US .. ']*)' .. US .. '([^' .. US .. ']*)' .. US .. '([^' .. US .. ']*)' .. US .. '(.*)$')
end

-- Forgets the oldest tombstones beyond TOMBS_MOST, so that a licence whose sessions are short does not fill Redis with a day
-- of them: how those ended is in PostgreSQL. Not that of a dirty session, whose row may still need it, nor of one that sits.
local function bound_tombs()
  local over = redis.call('ZCARD', TOMBS) - TOMBS_MOST
  if over <= 0 then return end
  local oldest = redis.call('ZRANGE', TOMBS, 0, math.min(over, REAP_MOST) - 1)
  for i = 1, #oldest do
    if not redis.call('ZSCORE', DIRTY, oldest[i]) and redis.call('HEXISTS', SESSIONS, oldest[i]) == 0 then
      redis.call('ZREM', TOMBS, oldest[i])
      redis.call('HDEL', ENDS, oldest[i])
    end
  end
end

-- Takes a session off its seat. Its row may still be open: it stays dirty until the row is known to be closed.
local function free_session(id, s, now, status, at, reason, by)
  redis.call('ZREM', LEASES, id)
  redis.call('HDEL', SESSIONS, id)
  redis.call('ZADD', FREED, s.seat, s.seat)
  redis.call('ZADD', DIRTY, s.seat, id)
  if redis.call('HGET', HOLDERS, s.holder) == id then redis.call('HDEL', HOLDERS, s.holder) end
  if s.mark ~= EVICTED then
    note_end(id, now, status, at, reason, by)
  else
    redis.call('ZADD', TOMBS, now + TOMB_MS, id) -- it was noted when it was evicted
  end
  bound_tombs()
  local t = redis.call('HMGET', META, 'lf', 'gp')
  if t[1] then
    local gap = now - tonumber(t[1])
    if t[2] then gap = math.floor(0.8 * tonumber(t[2]) + 0.2 * gap) end
    redis.call('HSET', META, 'gp', gap)
  end
  redis.call('HSET', META, 'lf', now, 'ck', now)
end

-- Writes a time of the pool's that is so many ms from now, or that there is none: -1.
local function set_time(field, now, ms)
  if tonumber(ms) >= 0 then
    redis.call('HSET', META, field, string.format('%.0f', now + tonumber(ms)))
  else
    redis.call('HDEL', META, field)
  end
end

-- Ends a session whose lease ran out. In a pool that no longer granted by then, that is how it was evicted.
local function lapse_session(id, s, now, score, m)
  local state = state_at(m, score)
  if state ~= 'active' then
    free_session(id, s, now, 'evicted', score, state, m.by)
  else
    free_session(id, s, now, 'lapsed', score, 'lease_expired', '')
  end
end

-- From now on the session is refused, but it stays on its seat until its lease has run out, or its holder gives it back or
-- asks for another: until then the holder may not have heard, and believes.
local function evict_session(id, s, now, reason, by)
  s.mark = EVICTED
  redis.call('HSET', SESSIONS, id, pack_session(s))
  note_end(id, now, 'evicted', now, reason, by)
end

-- Frees what has expired, REAP_MOST at most, and forgets old tombstones and waiters that stayed away.
local function reap(now, m)
  local due = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'WITHSCORES', 'LIMIT', 0, REAP_MOST)
  for i = 1, #due, 2 do
    lapse_session(due[i], unpack_session(redis.call('HGET', SESSIONS, due[i])), now, tonumber(due[i + 1]), m)
  end
  local old = redis.call('ZRANGEBYSCORE', TOMBS, '-inf', now, 'LIMIT', 0, REAP_MOST)
  for i = 1, #old do
    if redis.call('HEXISTS', SESSIONS, old[i]) == 1 then -- evicted long ago, and sits until its lease has run out
      redis.call('ZADD', TOMBS, now + TOMB_MS, old[i])
    else
      redis.call('ZREM', TOMBS, old[i])
      redis.call('HDEL', ENDS, old[i])
    end
  end
  local away = redis.call('ZRANGEBYSCORE', POLLS, '-inf', now, 'LIMIT', 0, REAP_MOST)
  for i = 1, #away do
    redis.call('ZREM', POLLS, away[i])
    redis.call('ZREM', QUEUE, away[i])
  end
  return #due / 2
end

-- The moment before which no restored session is reaped: every belief alive now has ended at the floor, and those that an
-- earlier rebuild restored have their own.
local function reap_nothing_before(floor)
  return math.max(floor, tonumber(redis.call('HGET', META, 'fu') or '0'))
end

-- Sessions whose lease runs; lapsed ones that nobody has reaped yet do not count.
local function count_live(now)
  return redis.call('ZCOUNT', LEASES, '(' .. string.format('%.0f', now), '+inf')
end
