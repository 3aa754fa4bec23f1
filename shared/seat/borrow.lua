-- Lends a seat: the lease of a confirmed session lasts as long as its row says that it is borrowed, and is never shortened.
-- Safe to repeat.
-- KEYS  as lib.lua
-- ARGV  session; fence; the epoch in which the row was written; ms until the borrow ends
-- Returns one of
--   ok
--   refused  the session is not what a heartbeat renews: a heartbeat says why
--   rebuild  the pool is of another epoch than the row, or was built under another incarnation
local id = ARGV[1]
local m = guard()
if not m or m.ep ~= ARGV[3] then return { 'rebuild' } end
local now = now_ms(m.ck)
local r = redis.call('HGET', SESSIONS, id)
if not r or state_at(m, now) ~= 'active' then return { 'refused' } end
local s = unpack_session(r)
if s.fence ~= ARGV[2] or s.mark ~= CONFIRMED or tonumber(redis.call('ZSCORE', LEASES, id)) <= now then return { 'refused' } end
redis.call('ZADD', LEASES, 'XX', 'GT', string.format('%.0f', now + tonumber(ARGV[4]) + m.sg), id)
redis.call('HSET', META, 'ck', string.format('%.0f', now))
return { 'ok' }
