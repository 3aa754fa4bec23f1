-- see.lua: counts one thing that was seen.
--
-- KEYS[1]  what was seen of a kind in a minute, HASH: source → how often; '' beyond the most sources
-- ARGV[1]  the source
-- ARGV[2]  the most sources that are kept apart
-- ARGV[3]  for how long they are kept, in seconds
--
-- Returns how often the source was seen.

local source = ARGV[1]
if redis.call('HEXISTS', KEYS[1], source) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[2]) then
    source = ''
end
local n = redis.call('HINCRBY', KEYS[1], source, 1)
if n == 1 then
    redis.call('EXPIRE', KEYS[1], ARGV[3])
end
return n
