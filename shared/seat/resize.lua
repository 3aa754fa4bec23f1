-- Tells the pool what its licence's row says now. Applied only when newer. Safe to repeat.
-- KEYS  as lib.lua
-- ARGV  pool version; state; by; max; overdraft; lease ms; clock allowance ms; reservation ms; poll ms; ms until
--       drained sessions are evicted, or -1
-- Returns one of
--   ok       epoch
--   rebuild  incarnation
local m = guard()
if not m then return { 'rebuild', incarnation() } end
if tonumber(ARGV[1]) > m.pv then
  redis.call('HSET', META, 'pv', ARGV[1], 'st', ARGV[2], 'by', ARGV[3], 'max', ARGV[4], 'od', ARGV[5], 'v', ARGV[6],
    'sg', ARGV[7], 'p', ARGV[8], 'pl', ARGV[9])
  if tonumber(ARGV[10]) >= 0 then
    redis.call('HSET', META, 'du', now_ms(m.ck) + tonumber(ARGV[10]))
  else
    redis.call('HDEL', META, 'du')
  end
end
return { 'ok', m.ep }
