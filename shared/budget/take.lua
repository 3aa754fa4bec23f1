-- take.lua: takes one request out of several budgets, or out of none of them.
--
-- Each budget is a generic cell rate: requests are spaced an interval apart, and may come early by as much
-- as a burst takes. The key holds the time, in microseconds, at which all that was taken will have been
-- paid for; it is absent when that is past. Time is this server's.
--
-- KEYS[i]      the i-th budget
-- ARGV[2i-1]   its interval between requests, in microseconds (at least 1)
-- ARGV[2i]     its burst: how many requests may come at once (at least 1)
--
-- Returns { i, wait }: the budget that has nothing left, 0 for none, and the microseconds after which one more
-- would be granted. A refused request takes nothing.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local paid = {}
for i, key in ipairs(KEYS) do
    local interval, burst = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    local at = math.max(tonumber(redis.call('GET', key) or '0'), now)
    -- A clock that went back, or a smaller budget, must not lock anybody out for longer than a burst.
    at = math.min(at, now + interval * burst)
    local early = at + interval - now - interval * burst
    if early > 0 then
        return { i, early }
    end
    paid[i] = at + interval
end
for i, key in ipairs(KEYS) do
    redis.call('SET', key, string.format('%.0f', paid[i]), 'PX', math.ceil((paid[i] - now) / 1000))
end
return { 0, 0 }
