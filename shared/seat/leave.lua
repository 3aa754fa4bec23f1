-- Gives up a waiter's place in the queue. Safe to repeat.
-- KEYS  as lib.lua
-- ARGV  holder
-- Returns how many places were given up: 1 when the holder was waiting, else 0
redis.call('ZREM', POLLS, ARGV[1])
return { redis.call('ZREM', QUEUE, ARGV[1]) }
