-- Says whether anybody is admitted. Applied unless a newer setting stands. Safe to repeat.
-- KEYS[1]  the switches, HASH: at (ms) of the setting, frozen '1' or '0'
-- ARGV     at (ms), 0 when nobody ever set it; '1' while nobody is admitted who has no seat
-- Returns  { 'ok' }
local at = tonumber(ARGV[1])
if at == 0 or at >= tonumber(redis.call('HGET', KEYS[1], 'at') or '0') then
  redis.call('HSET', KEYS[1], 'at', ARGV[1], 'frozen', ARGV[2])
end
return { 'ok' }
