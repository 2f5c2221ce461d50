-- luacheck: globals love
function love.conf(t)
  t.window.title = "terrain"
  t.window.width, t.window.height = 512, 384
  t.modules.audio, t.modules.sound, t.modules.physics = false, false, false
end
