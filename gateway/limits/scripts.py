"""The scripts that Redis runs; each is atomic, and reads the time from the server."""

import hashlib

import msgspec


class Script(msgspec.Struct, frozen=True):
    text: str

    @property
    def sha(self) -> str:
        """The name under which the server knows a loaded script."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


NOW = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
"""

# All or nothing: look at everything, then take. `place` counts through the keys as they were given.
TAKE = Script(
    NOW
    + """
local places, lease, holder = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local refused, wait = 0, 0
for place = 1, places do
    redis.call('ZREMRANGEBYSCORE', KEYS[place], '-inf', now)
    if refused == 0 and redis.call('ZCARD', KEYS[place]) >= tonumber(ARGV[3 + place]) then
        refused = place
    end
end
local tats, answer = {}, {}
for place = places + 1, #KEYS do
    local at = 3 + places + (place - places - 1) * 5
    local interval, tolerance = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local tat = math.max(tonumber(redis.call('GET', KEYS[place]) or now), now)
    tat = math.min(tat, now + tonumber(ARGV[at + 5]))
    local seconds = tat - now + tonumber(ARGV[at + 3]) * interval - tolerance
    if refused == 0 and seconds > 0.000001 then
        refused, wait = place, seconds
    end
    tats[place] = tat
end
for place = places + 1, #KEYS do
    if refused == 0 then
        local at = 3 + places + (place - places - 1) * 5
        tats[place] = tats[place] + tonumber(ARGV[at + 4]) * tonumber(ARGV[at + 1])
        local life = math.ceil((tats[place] - now) * 1000) + 1000
        redis.call('SET', KEYS[place], string.format('%.6f', tats[place]), 'PX', life)
    end
    answer[place - places] = string.format('%.6f', tats[place] - now)
end
if refused == 0 then
    for place = 1, places do
        redis.call('ZADD', KEYS[place], now + lease, holder)
        redis.call('EXPIRE', KEYS[place], math.ceil(lease) + 1)
    end
end
return {refused, string.format('%.6f', wait), unpack(answer)}
"""
)

SETTLE = Script(
    NOW
    + """
local buckets = tonumber(ARGV[1])
for place = 1, buckets do
    local tat = math.max(tonumber(redis.call('GET', KEYS[place]) or now), now) + tonumber(ARGV[1 + place])
    if tat > now then
        redis.call('SET', KEYS[place], string.format('%.6f', tat), 'PX', math.ceil((tat - now) * 1000) + 1000)
    else
        redis.call('DEL', KEYS[place])
    end
end
for place = buckets + 1, #KEYS do
    redis.call('ZREM', KEYS[place], ARGV[1 + place])
end
return 'OK'
"""
)

RENEW = Script(
    NOW
    + """
for place = 2, #ARGV do
    redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[1]), ARGV[place])
end
redis.call('EXPIRE', KEYS[1], math.ceil(tonumber(ARGV[1])) + 1)
return 'OK'
"""
)
