-- Whose references are: of the first who learned them, while they are remembered.
--
-- KEYS  the secret that all keys are made with, then one key each
-- ARGV  that secret as it is known, then for each key its value and the seconds that it is remembered for
--
-- A value is an origin (24 bytes) and the time of its use. Returned is for each key the value that stays where that is of
-- another origin, otherwise an empty one.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('ANOTHER secret')
end

local stay = {}
for i = 2, #KEYS do
  local value, seconds = ARGV[2 * i - 2], tonumber(ARGV[2 * i - 1])
  local known = redis.call('GET', KEYS[i])
  stay[i - 1] = ''
  if known and string.sub(known, 1, 24) ~= string.sub(value, 1, 24) then
    stay[i - 1] = known
  elseif seconds > 0 and (not known or redis.call('TTL', KEYS[i]) <= seconds) then
    redis.call('SET', KEYS[i], value, 'EX', seconds)
  end
end
return stay
