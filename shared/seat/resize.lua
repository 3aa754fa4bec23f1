-- Tells the pool what its licence's row says now. Applied only when newer. Safe to repeat.
-- KEYS  as lib.lua
-- ARGV  pool version; state; by; max; overdraft; lease ms; clock allowance ms; reservation ms; poll ms; ms until
--       drained sessions are evicted, or -1; ms until the licence stops granting by its dates, or -1
-- Returns one of
--   ok       epoch
--   rebuild
local m = guard()
if not m then return { 'rebuild' } end
if tonumber(ARGV[1]) > m.pv then
  redis.call('HSET', META, 'pv', ARGV[1], 'st', ARGV[2], 'by', ARGV[3], 'max', ARGV[4], 'od', ARGV[5], 'v', ARGV[6],
    'sg', ARGV[7], 'p', ARGV[8], 'pl', ARGV[9])
  set_time('du', now_ms(m.ck), ARGV[10])
  set_time('ex', now_ms(m.ck), ARGV[11])
end
return { 'ok', m.ep }
