-- Prepended to acquire.lua and carry.lua: counts, hour by hour, how many seats were taken and how many were wanted.
--
-- KEYS[11] demand HASH  of the hour that runs: h since 1970, k the most seats taken, d holders denied, w of these how many want
--                       a seat still, n the most taken and wanted at one time; c is what of it was carried to PostgreSQL;
--                       and earlier hours that were not carried yet: hour → k|d|n
-- KEYS[12] denied HASH  digest of a holder that was denied in this hour → 1 while it wants a seat, 0 when it got one
local DEMAND, DENIED = KEYS[11], KEYS[12]
local HOUR_MS = 3600000
local DENIED_MOST = 4096
local DEMAND_MS = 30 * 86400000

local function pack_hour(u) return string.format('%.0f|%.0f|%.0f', u.k, u.d, u.n) end

local function write_hour(u)
  redis.call('HSET', DEMAND, 'h', u.h, 'k', u.k, 'd', u.d, 'w', u.w, 'n', u.n)
end

-- The hour that runs. A new one begins with the seats that are taken, and nobody denied.
local function hour_now(now, taken)
  local h = math.floor(now / HOUR_MS)
  local f = redis.call('HMGET', DEMAND, 'h', 'k', 'd', 'w', 'n')
  if f[1] then
    local u = { h = tonumber(f[1]), k = tonumber(f[2]), d = tonumber(f[3]), w = tonumber(f[4]), n = tonumber(f[5]) }
    if u.h >= h then return u end
    redis.call('HSET', DEMAND, f[1], pack_hour(u))
    redis.call('HDEL', DEMAND, 'c')
  end
  local u = { h = h, k = taken, d = 0, w = 0, n = taken }
  write_hour(u)
  redis.call('UNLINK', DENIED)
  redis.call('PEXPIRE', DEMAND, DEMAND_MS)
  return u
end

-- So many seats are taken now.
local function note_taken(u, taken)
  if taken <= u.k and taken + u.w <= u.n then return end
  u.k, u.n = math.max(u.k, taken), math.max(u.n, taken + u.w)
  write_hour(u)
end

local function digest(holder) return string.sub(redis.sha1hex(holder), 1, 16) end

-- The holder found no seat free. Asking again changes nothing; a holder beyond DENIED_MOST is not counted.
local function note_denied(now, holder, taken)
  local u = hour_now(now, taken)
  local who = digest(holder)
  local known = redis.call('HGET', DENIED, who)
  if known ~= '1' and (known or redis.call('HLEN', DENIED) < DENIED_MOST) then
    redis.call('HSET', DENIED, who, '1')
    redis.call('PEXPIRE', DENIED, 2 * HOUR_MS)
    if not known then u.d = u.d + 1 end
    u.w = u.w + 1
    write_hour(u)
  end
  note_taken(u, taken)
end

-- The holder got a seat, with which so many are taken.
local function note_seated(now, holder, taken)
  local u = hour_now(now, taken)
  if u.w > 0 then
    local who = digest(holder)
    if redis.call('HGET', DENIED, who) == '1' then
      redis.call('HSET', DENIED, who, '0')
      u.w = u.w - 1
      write_hour(u)
    end
  end
  note_taken(u, taken)
end
